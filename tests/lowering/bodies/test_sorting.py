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
