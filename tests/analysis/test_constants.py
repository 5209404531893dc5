"""What a graph computes of nothing but itself is known as numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import fx

from autoconvert.analysis.constants import (
    constant_value,
    content,
    digest,
    held_value,
    is_filled,
    same_but_for_rounding,
    same_constant,
)
from autoconvert.ir.graph_module import graph_module

aten = torch.ops.aten

MADE: dict[str, tuple[Callable[[fx.Graph, fx.Node, fx.Node], fx.Node], list[float] | None]] = {
    "held": (lambda g, x, table: table, [3.0, 1.0]),
    "computed of what is held": (lambda g, x, table: g.call_function(aten.neg.default, (table,)), [-3.0, -1.0]),
    "computed of nothing": (lambda g, x, table: g.call_function(aten.arange.default, (2,)), [0.0, 1.0]),
    "an input": (lambda g, x, table: x, None),
    "computed of an input": (lambda g, x, table: g.call_function(aten.mul.Tensor, (table, x)), None),
    "chance": (lambda g, x, table: g.call_function(aten.rand.default, ([2],)), None),
}


def graph_with(make: Callable[[fx.Graph, fx.Node, fx.Node], fx.Node]) -> fx.Node:
    owner, graph = torch.nn.Module(), fx.Graph()
    owner.register_buffer("table", torch.tensor([3.0, 1.0]))
    node = make(graph, graph.placeholder("x"), graph.get_attr("table"))
    graph.output(node)
    # The graph knows its owner by this.
    return graph_module(owner, graph).graph.output_node().all_input_nodes[0]


@pytest.mark.parametrize("name", MADE)
def test_constant_is(name: str) -> None:
    make, expected = MADE[name]
    found = constant_value(graph_with(make))
    assert expected is None if found is None else found.tolist() == expected


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda g, x, table: g.call_function(aten.zeros_like.default, (x,)), 0),
        (lambda g, x, table: g.call_function(aten.new_ones.default, (x, [3])), 1),
        (lambda g, x, table: g.call_function(aten.full_like.default, (x, 7.0)), 7),
        (lambda g, x, table: g.call_function(aten.zeros.default, ([2],)), 0),
        (lambda g, x, table: g.call_function(aten.mul.Tensor, (table, 0)), 0),
        (lambda g, x, table: table, None),
        (lambda g, x, table: g.call_function(aten.empty_like.default, (x,)), None),
        (lambda g, x, table: g.call_function(aten.mul.Tensor, (x, 0)), None),
    ],
)
def test_what_is_filled_is_known_in_any_shape(
    make: Callable[[fx.Graph, fx.Node, fx.Node], fx.Node], number: float | None
) -> None:
    found = [each for each in (0, 1, 3, 7) if is_filled(graph_with(make), each)]
    assert found == ([] if number is None else [number])


def test_only_what_the_graph_has_is_held() -> None:
    assert held_value(graph_with(MADE["computed of nothing"][0])) is None
    value = held_value(graph_with(MADE["held"][0]))
    assert value is not None and value.tolist() == [3.0, 1.0]


def test_what_takes_many_operations_is_not_looked_at() -> None:
    def long(graph: fx.Graph, _: fx.Node, node: fx.Node) -> fx.Node:
        for _index in range(100):
            node = graph.call_function(aten.neg.default, (node,))
        return node

    assert constant_value(graph_with(long)) is None


def test_digests_tell_numbers_types_and_shapes_apart() -> None:
    value = torch.tensor([1.0, 2.0])
    others = [torch.tensor([1.0, 3.0]), value.to(torch.bfloat16), value[None], value.to(torch.int32)]
    assert digest(value) == digest(value.clone())
    assert digest(value) not in map(digest, others)


def test_content_is_in_the_order_of_the_axes() -> None:
    value = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    assert bytes(content(value.T)) == bytes([0, 3, 1, 4, 2, 5])


def test_constants_are_the_same_in_type_shape_and_bits() -> None:
    value = torch.tensor([0.0, 1.0, float("nan")])
    minus = torch.tensor([-0.0, 1.0, float("nan")])
    assert same_constant(value, value.clone())
    assert not any(same_constant(value, other) for other in (minus, value.double(), value[None], value[:2]))
    assert not same_constant(torch.arange(3), torch.arange(3.0))


def test_rounding_is_of_the_last_place_and_of_floating_point() -> None:
    value = torch.tensor([0.9375, 3e-30, torch.inf, torch.nan, 0.0])
    near, far = value * (1 + 2**-22), value * (1 + 2**-19)
    assert same_but_for_rounding(value, near)
    assert not same_constant(value, near)
    others = (far, -value, value.double(), value[None], value.nan_to_num(), value + 1e-38)
    assert not any(same_but_for_rounding(value, other) for other in others)
    assert not same_but_for_rounding(torch.arange(3), torch.arange(3))
