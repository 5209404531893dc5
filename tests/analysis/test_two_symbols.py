"""A graph with two lengths: what is proven of one says nothing of the other, and holds when the other is any."""

from collections.abc import Callable

import pytest
import sympy
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoconvert import ops
from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.sequence_axis import check_separate
from autoconvert.errors import Refused
from autoconvert.ir.editing import traced
from autoconvert.passes.canonicalize import canonicalize

WIDTH = 4
LENGTHS = {"text": 6, "source": 5}

Function = Callable[[Tensor, Tensor], Tensor]


def heads(x: Tensor) -> Tensor:
    return x.view(1, -1, 2, WIDTH // 2).transpose(1, 2)


def attended(x: Tensor, y: Tensor) -> Tensor:
    """Without a mask, from each position of the text to all of the source."""
    result = ops.attention(heads(x), heads(y), heads(y), None, 0.5, causal=False)
    return result.transpose(1, 2).reshape(-1, WIDTH)


def attended_causally(x: Tensor, y: Tensor) -> Tensor:
    return ops.attention(heads(x), heads(y), heads(y), None, 0.5, causal=True).transpose(1, 2).reshape(-1, WIDTH)


# Of `x` [text, width] and `y` [source, width], along which of the two each entry of the result is computed alone.
CASES: dict[str, tuple[Function, set[str]]] = {
    "scores of both": (lambda x, y: x @ y.T, {"text", "source"}),
    "shares of the source": (lambda x, y: (x @ y.T).softmax(-1), {"text"}),
    "shares of the text": (lambda x, y: (x @ y.T).softmax(0), {"source"}),
    "a sum over the source": (lambda x, y: x + y.sum(0), {"text"}),
    "attention written out": (lambda x, y: (x @ y.T).softmax(-1) @ y, {"text"}),
    "attention": (attended, {"text"}),
    "causal attention to another axis": (attended_causally, set()),
    "pairs": (lambda x, y: (x[:, None] * y[None]).sum(-1), {"text", "source"}),
    "pairs with the source and the width in one": (
        lambda x, y: (x[:, None] * y[None]).reshape(-1, y.numel()),
        {"text", "source"},
    ),
    "the width split beside the source": (
        lambda x, y: (x[:, None] * y[None]).reshape(x.shape[0], y.shape[0], 2, 2).sum(-1),
        {"text", "source"},
    ),
    "both in one": (lambda x, y: (x[:, None] * y[None]).reshape(-1, WIDTH), set()),
    "one behind the other": (lambda x, y: torch.cat((x, y)), set()),
}


def graph_of(function: Function) -> tuple[fx.Graph, dict[str, sympy.Symbol]]:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    values = {name: mode.from_tensor(torch.empty(n, WIDTH), static_shapes=False) for name, n in LENGTHS.items()}
    with mode:
        fakes = {name: torch.empty(value.shape[0], WIDTH) for name, value in values.items()}
    symbols = {name: value.shape[0].node.expr for name, value in values.items()}  # type: ignore[attr-defined]
    return canonicalize(traced(lambda **bound: function(*bound.values()), fakes)).graph, symbols


def proven(graph: fx.Graph, symbol: sympy.Symbol) -> int | None:
    """The axis of the result, from the end, along which entries never met; None where that is not proven."""
    try:
        layouts = check_separate(graph, symbol)
    except Refused:
        return None
    (result,) = graph.output_node().all_input_nodes
    return axes(result, symbol)[0] if result in layouts else None


@pytest.mark.parametrize("name", CASES)
def test_each_length_is_asked_about_alone(name: str) -> None:
    function, expected = CASES[name]
    graph, symbols = graph_of(function)
    assert {length for length, symbol in symbols.items() if proven(graph, symbol) is not None} == expected


@pytest.mark.parametrize("name", [name for name, (_, expected) in CASES.items() if expected])
def test_what_is_proven_can_be_cut_whatever_the_other_length(name: str) -> None:
    function, expected = CASES[name]
    graph, symbols = graph_of(function)
    for length in expected:
        axis = proven(graph, symbols[length])
        assert axis is not None
        for other in (1, 3):
            given = {each: torch.randn(LENGTHS[each] if each == length else other, WIDTH) for each in LENGTHS}
            whole = function(*given.values())
            parts = [function(*{**given, length: part}.values()) for part in torch.split(given[length], 2)]
            torch.testing.assert_close(torch.cat(parts, axis), whole)
