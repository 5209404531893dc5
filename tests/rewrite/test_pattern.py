"""A pattern that cannot be compared is bad input, said with its file and line."""

import re

import pytest
import torch
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.rewrite.pattern import Pattern


def computed(x: Tensor, k: float) -> Tensor:
    return x * (k + 1)


def unused(x: Tensor, k: float) -> Tensor:
    return x + 1


def constant(x: Tensor, k: float) -> Tensor:
    return x * k * torch.tensor([1.0, 2.0])


def plain(x: Tensor, k: float) -> Tensor:
    return (x * k).relu()


def pattern(function: object) -> Pattern:
    return Pattern("mine", "block", function, plain, {"x": (3, 2), "k": 2.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [computed, unused])
def test_a_number_that_does_not_stand_in_the_graph_is_an_input_error(function: object) -> None:
    line = function.__code__.co_firstlineno  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=rf"{re.escape(__file__)}:{line}: pattern mine: the number `k`") as error:
        _ = pattern(function).graph
    assert "compute in `becomes`" in error.value.hint


def test_a_tensor_of_its_own_is_an_input_error() -> None:
    with pytest.raises(InputError, match=rf"{re.escape(__file__)}:\d+: pattern mine: a tensor of its own"):
        _ = pattern(constant).graph


def test_placeholders_are_the_tensor_parameters() -> None:
    assert [node.target for node in pattern(plain).graph.graph.find_nodes(op="placeholder")] == ["x"]


def test_each_number_has_a_mark_of_its_own() -> None:
    two = Pattern("two", "block", plain, plain, {"x": (2,), "k": 1.0, "j": 1.0})
    assert sorted(two.scalars.values()) == ["j", "k"]
