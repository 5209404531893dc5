"""Division of whole numbers on the device, where the converter multiplies by the inverse: 41 · (1 / 41) is below 1.

Parameters are named as the operation's own, whose body is called by name.
"""

import torch
from torch import Tensor


def div(self: Tensor, other: Tensor | float, *, rounding_mode: str | None = None) -> Tensor:
    """As aten.div.Tensor_mode: toward zero is the next number up from a floor below zero that has a remainder."""
    is_whole = not self.is_floating_point() and not _is_float(other)
    if rounding_mode != "trunc" or not is_whole:
        return torch.ops.aten.div.Tensor_mode(self, other, rounding_mode=rounding_mode)
    quotient = torch.floor_divide(self, other)
    is_below = (quotient < 0) & (quotient * other != self)
    return quotient + is_below.to(quotient.dtype)


def _is_float(value: Tensor | float) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, float)
