"""Whole numbers are divided on the device as PyTorch does it, whatever the signs and the size."""

import pytest
import torch
from torch import Tensor

from tests.lowering.on_device import lowered, results, run

NUMBERS = torch.tensor([*range(-1000, 1000), 2**31 - 1, 2**30 + 1, -(2**31) + 1, 2**24 + 1])


@pytest.mark.parametrize("mode", ["trunc", "floor"])
@pytest.mark.parametrize("divisor", [1, 7, 41, 49, -3, 2**20])
def test_by_a_number(divisor: int, mode: str) -> None:
    def divided(x: Tensor) -> Tensor:
        return torch.div(x, divisor, rounding_mode=mode)

    (actual,), (expected,) = run(lowered(divided, NUMBERS), NUMBERS), results(divided, NUMBERS)
    assert torch.equal(actual.to(expected.dtype), expected)


@pytest.mark.parametrize("mode", ["trunc", "floor"])
def test_by_another(mode: str) -> None:
    def divided(x: Tensor, y: Tensor) -> Tensor:
        return torch.div(x, y, rounding_mode=mode)

    divisors = torch.arange(len(NUMBERS)) % 97 - 48
    divisors = torch.where(divisors == 0, 49, divisors)
    (actual,) = run(lowered(divided, NUMBERS, divisors), NUMBERS, divisors)
    assert torch.equal(actual.to(torch.int64), divided(NUMBERS, divisors))
