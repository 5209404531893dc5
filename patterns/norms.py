"""Root-mean-square and layer normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.pattern import Example, Pattern, tensor


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)


def _rms_scaled(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _rms(x, eps) * weight


def _rms_native(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _layer_norm_written_out(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps) * weight + bias


def _vectors(**tensors: Tensor) -> str | None:
    """Only a weight per channel is a norm's weight; anything else is arithmetic that happens to follow."""
    odd = next((name for name in ("weight", "bias") if name in tensors and tensors[name].ndim != 1), None)
    return f"{odd} has rank {tensors[odd].ndim}, not 1" if odd else None


def _scaled() -> Example:
    return {"x": tensor(1, 5, 14), "weight": tensor(14), "eps": 1e-6}


def _shifted() -> Example:
    return {"x": tensor(1, 5, 14), "weight": tensor(14), "bias": tensor(14), "eps": 1e-5}


PATTERNS = (
    # Before the root-mean-square, which is a part of it.
    Pattern(
        name="layer_norm.written_out",
        block="norm",
        matches=_layer_norm_written_out,
        becomes=lambda x, weight, bias, eps: ops.layer_norm(x, weight, bias, eps),
        example=_shifted,
        guard=lambda eps, **tensors: _vectors(weight=tensors["weight"], bias=tensors["bias"]),
    ),
    Pattern(
        name="rms_norm",
        block="norm",
        matches=_rms_scaled,
        becomes=lambda x, weight, eps: ops.rms_norm(x, weight, eps),
        example=_scaled,
        guard=lambda eps, **tensors: _vectors(weight=tensors["weight"]),
    ),
    Pattern(
        name="rms_norm.native",
        block="norm",
        matches=_rms_native,
        becomes=lambda x, weight, eps: ops.rms_norm(x, weight, eps),
        example=_scaled,
    ),
    Pattern(
        name="rms_norm.without_weight",
        block="norm",
        matches=_rms,
        becomes=lambda x, eps: ops.rms_norm(x, None, eps),
        example=lambda: {"x": tensor(1, 5, 14), "eps": 1e-6},
    ),
    Pattern(
        name="layer_norm",
        block="norm",
        matches=_layer_norm,
        becomes=lambda x, weight, bias, eps: ops.layer_norm(x, weight, bias, eps),
        example=_shifted,
    ),
)
