"""Rotary embedding on the device."""

import torch
from torch import Tensor


def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """As ops.rotary, with the sign moved into the sine, which all layers share, and slices of neighbouring entries."""
    half = x.shape[-1] // 2
    signs = torch.cat((-torch.ones(half), torch.ones(half)))
    if not interleaved:
        return x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * (sin * signs)
    pairs = torch.unflatten(x, -1, (half, 2))
    exchanged = torch.cat((pairs[..., 1:], pairs[..., :1]), dim=-1).flatten(-2)
    return x * cos + exchanged * (sin * signs.view(2, half).t().flatten())
