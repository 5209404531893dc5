"""Activation functions as formulas of primitive operations; what they become is the operation that a device has."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.rewrite.pattern import Pattern

_ROOT = math.sqrt(2.0 / math.pi)
_CUBE = 0.044715


def _gelu_tanh(x: Tensor, inner: float, cube: float) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(inner * (x + cube * torch.pow(x, 3.0))))


def _gelu_tanh_factored(x: Tensor, inner: float, cube: float) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * inner * (1.0 + cube * x * x)))


def _numbers(expected: dict[str, float]) -> Callable[..., str | None]:
    """Numbers may be cut off in the source, as long as float32 cannot tell."""

    def guard(x: Tensor, **numbers: float) -> str | None:
        odd = next((name for name, value in numbers.items() if abs(value / expected[name] - 1) > 2**-24), None)
        return f"{odd} is {numbers[odd]}, not {expected[odd]}" if odd else None

    return guard


def _gelu_pattern(name: str, matches: Callable[..., Tensor], **numbers: float) -> Pattern:
    return Pattern(
        name=name,
        block="activation",
        matches=matches,
        becomes=lambda x, **_: F.gelu(x, approximate="tanh"),
        example={"x": (1, 5, 14), **numbers},
        guard=_numbers(numbers),
    )


PATTERNS = (
    _gelu_pattern("gelu_tanh", _gelu_tanh, inner=_ROOT, cube=_CUBE),
    _gelu_pattern("gelu_tanh.factored", _gelu_tanh_factored, inner=_ROOT, cube=_CUBE),
)
