"""What an operation says of shapes without real numbers."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoconvert.ops.semantic import operation

_RUN: list[str] = []


def split_rows(x: Tensor, count: int = 1, flat: bool = False) -> tuple[Tensor, Tensor]:
    _RUN.append("split_rows")
    first, rest = x[:count].clone(), x[count:].clone()
    return (first.flatten(), rest) if flat else (first, rest.half())


SPLIT = operation(split_rows)


@pytest.fixture
def run() -> list[str]:
    _RUN.clear()
    return _RUN


def described(*values: Tensor) -> list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]]:
    return [(tuple(value.shape), value.stride(), value.dtype) for value in values]


def test_the_same_shapes_are_worked_out_once(run: list[str]) -> None:
    with FakeTensorMode():
        first, second = (SPLIT(torch.empty(5, 4), 2) for _ in range(2))
    assert run == ["split_rows"]
    assert described(*first) == described(*second) == described(*SPLIT(torch.empty(5, 4), 2))


@pytest.mark.parametrize(
    ("shape", "count", "flat"), [((6, 4), 2, False), ((5, 4), 1, False), ((5, 4), 1, True), ((4, 5), 0, True)]
)
def test_other_shapes_numbers_and_choices_are_not_taken_for_known_ones(
    shape: tuple[int, ...], count: int, flat: bool
) -> None:
    with FakeTensorMode():
        SPLIT(torch.empty(5, 4), 2)
        SPLIT(torch.empty(5, 4), True)
        found = SPLIT(torch.empty(shape), count, flat)
        turned = SPLIT(torch.empty(shape).T, count, flat)
    assert described(*found) == described(*SPLIT(torch.empty(shape), count, flat))
    assert described(*turned) == described(*SPLIT(torch.empty(shape).T, count, flat))


def test_a_length_without_a_number_stays_one() -> None:
    environment = ShapeEnv()
    with FakeTensorMode(shape_env=environment):
        length = environment.create_unbacked_symint()
        torch._check(length >= 3)  # type: ignore[no-untyped-call]
        first, rest = SPLIT(torch.empty(length, 4), 2)
    assert first.shape[0] == 2
    assert isinstance(rest.shape[0], torch.SymInt)
