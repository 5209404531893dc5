"""A cumulative sum along the sequence becomes a scan with the same numbers; any other stays."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.errors import Refused
from autoconvert.ir.program import Program
from autoconvert.passes.cumsum_to_scan import cumsum_to_scan
from autoconvert.scan.running_sum import RunningSum
from tests import models
from tests.models import Decoder
from tests.steps import run_through

cumsum = torch.ops.aten.cumsum.default

# With 1, which is counted nowhere, at the beginning, in a row and at the end.
TOKENS = [1, 5, 7, 1, 1, 2, 3, 1, 9, 4, 30, 1, 6, 8, 2, 11, 1, 13, 1]


def carried(program: Program) -> Program:
    return cumsum_to_scan(program)


def sums(program: Program) -> list[RunningSum]:
    return [module for module in program.graph.modules() if isinstance(module, RunningSum)]


ALONG: dict[str, tuple[Callable[[Decoder, Tensor], Tensor], int]] = {
    "of every width": (lambda d, x: x.cumsum(1), models.WIDTH),
    "axis from the end": (lambda d, x: x.cumsum(-2), models.WIDTH),
    "of several axes": (lambda d, x: x.view(1, -1, 2, 4).cumsum(1).flatten(2), models.WIDTH),
    "the sequence last": (lambda d, x: x.mT.cumsum(-1).mT, models.WIDTH),
    "the sequence in the middle": (
        lambda d, x: x.view(1, -1, 2, 4).transpose(1, 2).cumsum(2).transpose(1, 2).flatten(2),
        models.WIDTH,
    ),
    "one number a position": (lambda d, x: x + x.sum(-1).cumsum(1)[..., None], 1),
    "whole numbers": (lambda d, x: x + (x * 4).to(torch.int32).cumsum(1), models.WIDTH),
    "truths": (lambda d, x: x + (x > 0).cumsum(1), models.WIDTH),
}


@pytest.mark.parametrize("name", ALONG)
def test_a_sum_along_the_sequence_becomes_a_scan(name: str) -> None:
    mix, width = ALONG[name]
    module = Decoder(mix)
    program = carried(run_through(models.traced(module), "materialize-positions"))
    assert not program.graph.graph.find_nodes(op="call_function", target=cumsum)
    assert [running.states for running in sums(program)] == [((width,),)]
    tokens = models.random_ids()
    expected = models.logits_of_source(module, tokens)
    models.assert_same(models.execute(program, module, tokens)["logits"][0], expected)


def test_every_sum_has_its_own_state() -> None:
    module = Decoder(lambda d, x: x.cumsum(1) * d.gain + (x * d.gain).cumsum(1))
    program = models.rewrite(module)
    assert [(state.name, state.shape) for state in program.states if state.kind == "recurrent"] == [
        ("kv_cache_r_0", (1, models.WIDTH)),
        ("kv_cache_r_1", (1, models.WIDTH)),
    ]
    models.assert_chunks_give_what_the_model_gives(program, module)


def test_a_sum_over_another_axis_stays() -> None:
    module = Decoder(lambda d, x: x.cumsum(-1))
    program = carried(run_through(models.traced(module), "materialize-positions"))
    assert len(program.graph.graph.find_nodes(op="call_function", target=cumsum)) == 1
    assert not sums(program)


def test_a_sum_of_what_tokens_do_not_change_is_a_table() -> None:
    """It has become one before, and needs no state."""
    module = Decoder(lambda d, x: x + torch.ones(x.shape[:2], dtype=torch.int64).cumsum(1)[..., None])
    program = models.rewrite(module)
    assert not sums(program)
    assert {state.kind for state in program.states} == {"key", "value"}
    models.assert_chunks_give_what_the_model_gives(program, module)


def test_a_sum_in_a_type_of_its_own_is_refused() -> None:
    with pytest.raises(Refused, match=r"cumsum .*cannot be split into chunks"):
        models.rewrite(Decoder(lambda d, x: x.cumsum(1, dtype=torch.float64).to(x.dtype)))


class CountingTruths(Decoder):
    """Positions count the tokens that are not 1, of which a mask is the sum."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + F.embedding(tokens.ne(1).cumsum(1), self.rows)
        logits: Tensor = self.head(x + self.attend(self, x))
        return logits


def test_truths_are_counted() -> None:
    module = CountingTruths()
    logits = models.logits_in_chunks(models.rewrite(module), module, TOKENS)
    models.assert_same(logits, models.logits_of_source(module, TOKENS))
