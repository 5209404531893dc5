"""The loop over the passes: which trace is rewritten, and at which context."""

import pytest
import torch
from torch import Tensor
from transformers import MptConfig, MptForCausalLM

from autoconvert.driver.trace_and_rewrite import rewrite, rewrite_at_most
from autoconvert.errors import Refused
from autoconvert.lowering.cpu import CPU
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options
from tests import models
from tests.models import Decoder

LIMIT = 33
OPTIONS = Options(LIMIT, PATTERNS, lambda *_: None, CPU)


def stops_short() -> Decoder:
    """Asks for a text that is shorter than the context."""

    def mix(_: Decoder, x: Tensor) -> Tensor:
        torch._check(x.shape[1] != LIMIT)  # type: ignore[no-untyped-call]
        return x

    return Decoder(mix)


def test_a_context_that_the_code_does_not_hold_is_refused_with_one_that_it_does() -> None:
    with pytest.raises(Refused, match=f"does not hold: at {LIMIT}") as refused:
        rewrite(stops_short(), OPTIONS)
    assert f"--context {LIMIT - 1}" in refused.value.hint


def test_where_nobody_chose_the_context_it_is_the_one_that_holds() -> None:
    _, context = rewrite_at_most(stops_short(), OPTIONS)
    assert context == LIMIT - 1


def test_a_table_of_biases_may_be_as_long_as_the_context() -> None:
    """MPT slices it, which is no slice where the text is as long: the numbers are the same, and so are their places."""
    config = MptConfig(d_model=32, n_heads=4, n_layers=1, expansion_ratio=2, max_seq_len=LIMIT, vocab_size=96)
    module = MptForCausalLM(config).eval()
    program, context = rewrite_at_most(module, OPTIONS)
    assert context == LIMIT
    tokens = models.random_ids(LIMIT, 96)
    for sizes in (((LIMIT, LIMIT),), ((20, 20), (12, 13), (1, 1))):
        logits = models.logits_in_chunks(program, module, tokens, sizes)
        models.assert_same(logits, models.logits_of_source(module, tokens))
