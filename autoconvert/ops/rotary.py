"""Rotary position embedding."""

import torch
from torch import Tensor


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al., 2021), pairing axis i with i + width/2.

    `x` [batch, heads, sequence, width]; `cos` and `sin` broadcast to it, usually [1, 1, sequence, width].
    """
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin
