"""Orders on the device are PyTorch's: along any axis, either way, all entries or the first, equal ones in place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.lowering.on_device import lowered, operations, results, run

ORDERS: dict[str, Callable[[Tensor], Any]] = {
    "largest": lambda x: x.topk(3),
    "in any order": lambda x: x.topk(1, sorted=False),
    "all of them": lambda x: x.topk(6),
    "smallest along the first axis": lambda x: x.topk(2, 0, largest=False),
    "ascending": lambda x: x.sort(),
    "descending": lambda x: x.sort(descending=True),
    "stable along the first axis": lambda x: torch.sort(x, dim=0, stable=True),
    "places": lambda x: x.argsort(-1),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_device_gives_what_pytorch_gives(name: str) -> None:
    x = torch.randperm(24, generator=torch.Generator().manual_seed(0)).view(4, 6) - 11.5
    content = lowered(ORDERS[name], x)
    for actual, expected in zip(run(content, x), results(ORDERS[name], x), strict=True):
        torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=0, atol=0)


def test_of_equal_entries_the_first_comes_first() -> None:
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    content = lowered(lambda x: torch.sort(x, stable=True), x)
    assert run(content, x)[1].tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]


def test_there_is_one_comparison() -> None:
    assert operations(lowered(lambda x: x.topk(4), torch.randn(3, 4)))["TOPK_V2"] == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_whole_numbers_of_any_type_are_ordered_up_to_the_least_and_the_largest(dtype: torch.dtype, order: str) -> None:
    most = torch.iinfo(torch.int32 if dtype == torch.int64 else dtype)
    row = [3, most.min, 1, most.max, 5, 7]
    x = torch.tensor([row[turn:] + row[:turn] for turn in range(4)], dtype=dtype)
    for actual, expected in zip(run(lowered(ORDERS[order], x), x), results(ORDERS[order], x), strict=True):
        assert torch.equal(actual.to(expected.dtype), expected)


@pytest.mark.parametrize("descending", [False, True])
def test_truth_is_ordered(descending: bool) -> None:
    def order(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sort(x, stable=True, descending=descending)

    x = torch.tensor([[True, False, True, False, False]])
    for actual, expected in zip(run(lowered(order, x), x), results(order, x), strict=True):
        assert torch.equal(actual.to(expected.dtype), expected)
