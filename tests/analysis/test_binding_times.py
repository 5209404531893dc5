"""When a value is known: with the weights, with the positions, or only with the tokens."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from autoconvert.analysis.binding_times import Time, binding_times, frontier
from autoconvert.ir.program import Program
from autoconvert.passes.canonicalize import canonicalize
from tests import models
from tests.models import Decoder

CASES: dict[str, tuple[Callable[[Decoder, Tensor], Tensor], Time]] = {
    "a parameter": (lambda d, x: x * (d.gain + 1), Time.WEIGHT),
    "two parameters": (lambda d, x: x * (d.gain * d.offset), Time.WEIGHT),
    "a constant": (lambda d, x: x * (torch.arange(models.WIDTH) + 1), Time.CONSTANT),
    "a count of positions": (lambda d, x: x * (torch.arange(x.shape[1])[:, None] + 1), Time.POSITION),
    "the length": (lambda d, x: x * torch.full((), x.shape[1]).add(1), Time.POSITION),
    "a parameter at a position": (
        lambda d, x: x * (torch.arange(x.shape[1])[:, None] * d.gain + 1),
        Time.TOKEN,
    ),
    "tokens": (lambda d, x: x * (x + 1), Time.TOKEN),
    "a number found in tokens": (lambda d, x: x * (torch.full((), x.argmax().item()) + 1), Time.TOKEN),
    "a random number": (lambda d, x: x * (torch.rand(models.WIDTH) + 1), Time.TOKEN),
}


def last_factor(graph: fx.Graph) -> fx.Node:
    """What the last multiplication multiplies by."""
    factor = graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)[-1].args[1]
    assert isinstance(factor, fx.Node)
    return factor


def canonical(mix: Callable[[Decoder, Tensor], Tensor]) -> Program:
    program = models.traced(Decoder(mix))
    return program.with_graph(canonicalize(program.graph, program.weights))


@pytest.mark.parametrize("name", CASES)
def test_binding_time_of(name: str) -> None:
    mix, expected = CASES[name]
    program = canonical(mix)
    assert binding_times(program)[last_factor(program.graph.graph)] is expected


def test_frontier_is_what_later_times_use() -> None:
    program = canonical(lambda d, x: x * ((d.gain + 1) * d.offset))
    graph = program.graph.graph
    ends = frontier(graph, binding_times(program), Time.WEIGHT)
    assert last_factor(graph) in ends
    assert not set(last_factor(graph).all_input_nodes) & set(ends)
