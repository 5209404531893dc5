"""The matcher: what binds, what is compared, what commutes, and what a near miss says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from autoconvert.check.pattern import canonicalized
from autoconvert.ir.fusion import NearMiss
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.matching import Match, Matcher
from autoconvert.rewrite.pattern import Pattern

Function = Callable[..., Tensor]
X, Y, W = torch.randn(1, 5, 14), torch.randn(1, 5, 14), torch.randn(14, 14)


def pattern(matches: Function, **example: Any) -> Pattern:
    return Pattern("example", "block", matches, matches, example)


def match(matches: Function, example: dict[str, Any], function: Function, **values: Any) -> Match | NearMiss:
    """Tries the pattern at the last operation of `function`."""
    made = pattern(matches, **example)
    graph = canonicalized(function, values)
    output = graph.graph.output_node().all_input_nodes[0]
    return Matcher(made, canonicalize(made.graph).graph).match(output)


def scaled(x: Tensor, k: float) -> Tensor:
    return torch.relu(x * k)


def test_a_parameter_binds_whatever_value_stands_there() -> None:
    found = match(scaled, {"x": X, "k": 2.0}, lambda x: ((x + 1).exp() * 3).relu(), x=X)
    assert isinstance(found, Match)
    assert str(found.bound["x"].target) == "aten.exp.default"
    assert found.scalars == {"k": 3.0}


def test_an_integer_is_captured_as_a_number() -> None:
    found = match(scaled, {"x": X, "k": 2.0}, lambda x: (x * 3).relu(), x=X)
    assert isinstance(found, Match)
    assert found.scalars == {"k": 3.0}


def test_a_tensor_is_no_number() -> None:
    found = match(scaled, {"x": X, "k": 2.0}, lambda x, y: (x * y).relu(), x=X, y=Y)
    assert isinstance(found, NearMiss)
    assert "k is not a number" in found.reason


def test_a_number_used_twice_must_be_the_same() -> None:
    def twice(x: Tensor, k: float) -> Tensor:
        return (x + k) * k

    assert isinstance(match(twice, {"x": X, "k": 2.0}, lambda x: (x + 3.0) * 3.0, x=X), Match)
    found = match(twice, {"x": X, "k": 2.0}, lambda x: (x + 3.0) * 4.0, x=X)
    assert isinstance(found, NearMiss)
    assert "3.0" in found.reason and "4.0" in found.reason


@pytest.mark.parametrize("written", [lambda x: (x / 8.0).relu(), lambda x: (x * 0.125).relu()])
def test_a_number_that_is_divided_by_is_captured_as_it_is_written(written: Function) -> None:
    def over(x: Tensor, k: float) -> Tensor:
        return torch.relu(x / k)

    found = match(over, {"x": X, "k": 2.0}, written, x=X)
    assert isinstance(found, Match)
    assert found.scalars == {"k": 8.0}


def test_a_number_that_is_added_and_divided_by_must_be_the_same() -> None:
    def both(x: Tensor, k: float) -> Tensor:
        return (x + k) / k

    # 49 is no reciprocal of its reciprocal in float64.
    assert isinstance(match(both, {"x": X, "k": 2.0}, lambda x: (x + 49.0) / 49.0, x=X), Match)
    assert isinstance(match(both, {"x": X, "k": 2.0}, lambda x: (x + 49.0) / 48.0, x=X), NearMiss)


def test_a_value_used_twice_must_be_the_same() -> None:
    def gated(x: Tensor) -> Tensor:
        return x.sigmoid() * x

    assert isinstance(match(gated, {"x": X}, lambda x, y: x * x.sigmoid(), x=X, y=Y), Match)
    found = match(gated, {"x": X}, lambda x, y: y * x.sigmoid(), x=X, y=Y)
    assert isinstance(found, NearMiss)
    assert "another value than where the pattern uses it first" in found.reason


def test_one_value_may_be_two_parameters() -> None:
    def product(x: Tensor, y: Tensor) -> Tensor:
        return x.exp() * y

    found = match(product, {"x": X, "y": Y}, lambda x: x.exp() * x, x=X)
    assert isinstance(found, Match)
    assert found.bound["x"] is found.bound["y"]


def test_both_orders_of_a_commuting_operation_are_tried_together() -> None:
    def nested(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (a.exp() + b.sin()) * c.cos()

    found = match(
        nested, {"a": X, "b": Y, "c": X + 1}, lambda a, b, c: c.cos() * (b.sin() + a.exp()), a=X, b=Y, c=X + 1
    )
    assert isinstance(found, Match)
    assert {name: str(node.target) for name, node in found.bound.items()} == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize("name", ["sub", "div", "alpha"])
def test_what_does_not_commute_is_not_exchanged(name: str) -> None:
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "sub": lambda a, b: a - b,
        "div": lambda a, b: a / b,
        "alpha": lambda a, b: torch.add(a, b, alpha=2),
    }
    of = functions[name]

    def written(a: Tensor, b: Tensor) -> Tensor:
        return of(a.exp(), b.sin())

    example = {"a": X, "b": Y}
    assert isinstance(match(written, example, written, **example), Match)
    assert isinstance(match(written, example, lambda a, b: of(b.sin(), a.exp()), **example), NearMiss)


def test_axes_are_compared_and_sizes_are_bound() -> None:
    def last(x: Tensor) -> Tensor:
        return x.softmax(-1)

    assert isinstance(match(last, {"x": X}, lambda x: x.softmax(-1), x=torch.randn(1, 9, 30)), Match)
    assert isinstance(match(last, {"x": X}, lambda x: x.softmax(1), x=X), NearMiss)


def test_a_step_is_compared() -> None:
    def every_second(x: Tensor) -> Tensor:
        return x[..., ::2]

    assert isinstance(match(every_second, {"x": X}, lambda x: x[..., ::2], x=torch.randn(1, 5, 18)), Match)
    assert isinstance(match(every_second, {"x": X}, lambda x: x[..., ::3], x=X), NearMiss)


def test_one_size_of_the_example_is_one_size_of_the_model() -> None:
    def swapped(x: Tensor) -> Tensor:
        return torch.cat((x[..., 7:], x[..., :7]), -1)

    wide = torch.randn(1, 5, 20)
    assert isinstance(match(swapped, {"x": X}, lambda x: torch.cat((x[..., 10:], x[..., :10]), -1), x=wide), Match)
    found = match(swapped, {"x": X}, lambda x: torch.cat((x[..., 6:], x[..., :6]), -1), x=wide)
    assert isinstance(found, NearMiss)
    assert "has size" in found.reason


@pytest.mark.parametrize(("axis", "is_found"), [(-1, True), (-2, False)])
def test_an_index_that_is_a_constant_of_the_model_matches_one_that_is_a_parameter(axis: int, is_found: bool) -> None:
    order = torch.tensor([2, 0, 1, 3])

    def by_parameter(x: Tensor, order: Tensor) -> Tensor:
        return torch.relu(x[..., order])

    values = {"x": torch.randn(1, 4, 4), "order": order}
    graph = canonicalized(lambda x, order: torch.relu(x[..., order] if axis == -1 else x[:, order]), values, ["order"])
    made = pattern(by_parameter, **values)
    output = graph.graph.output_node().all_input_nodes[0]
    found = Matcher(made, canonicalize(made.graph).graph).match(output)
    assert isinstance(found, Match) is is_found
    if isinstance(found, Match):
        assert found.constants["order"].tolist() == order.tolist()


def test_reshapes_are_told_apart_by_their_shapes() -> None:
    def heads(x: Tensor) -> Tensor:
        return x.view(1, 5, 2, 7)

    assert isinstance(match(heads, {"x": X}, lambda x: x.view(1, 9, 3, 10), x=torch.randn(1, 9, 30)), Match)
    assert isinstance(match(heads, {"x": X}, lambda x: x.view(1, 45, 2, 3), x=torch.randn(1, 9, 30)), NearMiss)


def test_near_miss_counts_what_matched_and_says_where_it_ended() -> None:
    def norm(x: Tensor, eps: float) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()

    found = match(norm, {"x": X, "eps": 0.1}, lambda x: x * (x.abs().mean(-1, True) + 0.1).rsqrt(), x=X)
    assert isinstance(found, NearMiss)
    assert (found.matched, found.of) == (4, 5)
    assert (found.place, found.reason) == ("abs", "the pattern expects mul")


def test_a_reason_of_the_guard_counts_as_everything_matched() -> None:
    made = Pattern("declined", "block", scaled, scaled, {"x": X, "k": 2.0}, guard=lambda x, k: f"k is {k}")
    graph = canonicalized(scaled, {"x": X, "k": 5.0})
    found = Matcher(made, canonicalize(made.graph).graph).match(graph.graph.output_node().all_input_nodes[0])
    assert found == NearMiss("declined", "relu", 2, 2, "k is 5.0", covered=("relu", "mul"))
