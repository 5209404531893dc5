"""Norms."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMSNorm (Zhang & Sennrich, 2019): x / sqrt(mean(x²) + eps) · weight over the last axis.

    `x` [..., width], `weight` [width]; gives the shape of `x`.
    """
    normed = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm (Ba et al., 2016): (x − mean) / sqrt(variance + eps) · weight + bias over the last axis.

    `x` [..., width], `weight` and `bias` [width]; gives the shape of `x`.
    """
    centred = x - x.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * weight
    return normed if bias is None else normed + bias
