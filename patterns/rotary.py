"""Rotary position embedding, the half-rotation that pairs axis i with i + width/2."""

import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.pattern import Pattern, tensor


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _same_axes(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    if cos.shape[-1] == x.shape[-1] == sin.shape[-1] and x.shape[-1] % 2 == 0:
        return None
    return f"cos and sin have width {cos.shape[-1]} and {sin.shape[-1]}, x has {x.shape[-1]}"


PATTERNS = (
    Pattern(
        name="rotary.half",
        block="rotary",
        matches=_rotate_half,
        becomes=lambda x, cos, sin: ops.rotary(x, cos, sin),
        example=lambda: {"x": tensor(1, 3, 5, 14), "cos": tensor(1, 1, 5, 14), "sin": tensor(1, 1, 5, 14)},
        guard=_same_axes,
    ),
)
