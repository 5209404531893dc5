"""What is repeated on the device is right whatever follows, which a converter's own broadcasts are not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.lowering.on_device import lowered, results, run

USES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x.contiguous(),
    "transposed": lambda x: x.transpose(-1, -2).contiguous(),
    "with heads last": lambda x: x.transpose(1, 2).contiguous(),
    "merged": lambda x: x.reshape(1, -1, x.shape[-1]),
}


@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("count", [2, 19])
@pytest.mark.parametrize("use", USES)
def test_one_head_for_all(use: str, count: int, width: int) -> None:
    def function(x: Tensor) -> Tensor:
        return USES[use](x[:, :1].expand(-1, count, -1, -1))

    assert_same(function, torch.randn(1, 2, 4, width))


@pytest.mark.parametrize("use", USES)
def test_each_head_for_some(use: str) -> None:
    assert_same(lambda x: USES[use](x.repeat_interleave(3, 1)), torch.randn(1, 2, 4, 4))


def test_axes_lead_and_several_repeat() -> None:
    assert_same(lambda x: x.expand(3, 5, 2, 4).transpose(0, 2).contiguous(), torch.randn(5, 2, 4)[:, :1])


def test_truth_is_repeated() -> None:
    assert_same(lambda x: (x > 0).expand(-1, 3, -1, -1).transpose(1, 3).contiguous(), torch.randn(1, 1, 4, 4))


def assert_same(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    for actual, expected in zip(run(lowered(function, x), x), results(function, x), strict=True):
        assert torch.equal(actual, expected)
