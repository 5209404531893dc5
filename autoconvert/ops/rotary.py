"""Rotary position embedding."""

import torch
from torch import Tensor


def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary embedding (Su et al., 2021): pairs of entries of the last axis are turned by an angle.

    Axis i is paired with i + width/2, or with `interleaved` axis 2i with 2i + 1. `x` [..., width], width even;
    `cos` and `sin` have the width of `x`, the angle of each entry's pair, and broadcast to it: [sequence, width]
    beside [batch, heads, sequence, width]. Gives the shape of `x`.
    """
    if interleaved:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    else:
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
