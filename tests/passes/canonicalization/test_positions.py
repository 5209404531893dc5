"""Rows of a parameter up to the length are the rows at the positions, and nothing else is."""

import pytest
import torch
from torch import Tensor

from tests.passes.forms import WIDTH, Function, form, operations

aten = torch.ops.aten


def table(m: Tensor) -> Tensor:
    """A parameter of 128 rows."""
    return m.repeat(16, 1)


def looked_up(x: Tensor, m: Tensor) -> Tensor:
    return x + torch.nn.functional.embedding(torch.arange(x.shape[1]), table(m))


WAYS: dict[str, Function] = {
    "rows": lambda x, m: x + table(m)[: x.shape[1]],
    "rows and all columns": lambda x, m: x + table(m)[: x.size(1), :],
    "narrowed": lambda x, m: x + table(m).narrow(0, 0, x.shape[1]),
    "from zero": lambda x, m: x + table(m)[0 : x.shape[1]],
}


@pytest.mark.parametrize("name", WAYS)
def test_first_rows_are_looked_up_by_position(name: str) -> None:
    assert form(WAYS[name]) == form(looked_up)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: x + table(m)[None][:, : x.shape[1]],
        lambda x, m: x + table(m).view(1, 1, 128, WIDTH)[:, :, : x.shape[1]][0],
    ],
)
def test_axes_of_one_in_front_stay(function: Function) -> None:
    found = operations(function)
    assert aten.embedding.default in found
    assert aten.slice.Tensor not in found


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: x + table(m)[1 : x.shape[1] + 1],
        lambda x, m: x + table(m)[: x.shape[1] * 2][::2],
        lambda x, m: x + torch.arange(64.0)[: x.shape[1]].view(1, -1, 1),
    ],
)
def test_other_rows_and_constants_are_not(function: Function) -> None:
    assert aten.embedding.default not in operations(function)
