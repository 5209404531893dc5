"""The loop over the passes: which trace is rewritten, and at which context."""

import pytest
from transformers import MptConfig, MptForCausalLM

from autoconvert.driver.trace_and_rewrite import rewrite, rewrite_at_most
from autoconvert.errors import Refused
from autoconvert.lowering.cpu import CPU
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options

LIMIT = 33


def drops_biases() -> MptForCausalLM:
    """Slices its table of biases, which it does not where a text is as long as the table."""
    config = MptConfig(d_model=32, n_heads=4, n_layers=1, expansion_ratio=2, max_seq_len=LIMIT, vocab_size=96)
    return MptForCausalLM(config).eval()


def test_a_context_that_the_code_does_not_hold_is_refused_with_one_that_it_does() -> None:
    with pytest.raises(Refused, match=f"does not hold: at {LIMIT}") as refused:
        rewrite(drops_biases(), Options(LIMIT, PATTERNS, lambda *_: None, CPU))
    assert f"--context {LIMIT - 1}" in refused.value.hint


def test_where_nobody_chose_the_context_it_is_the_one_that_holds() -> None:
    _, context = rewrite_at_most(drops_biases(), Options(LIMIT, PATTERNS, lambda *_: None, CPU))
    assert context == LIMIT - 1
