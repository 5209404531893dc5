"""Norms: root-mean-square and layer norm."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.rewrite.pattern import Example, Pattern


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)


def _rms_scaled(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _rms(x, eps) * weight


def _rms_native(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], None, eps)


def _rms_native_scaled(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _layer_norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], None, None, eps)


def _layer_norm_scaled(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, None, eps)


def _layer_norm_shifted(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _written_out(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)


def _written_out_scaled(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _written_out(x, eps) * weight


def _written_out_shifted(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _written_out(x, eps) * weight + bias


def _vectors(eps: float, x: Tensor, **tensors: Tensor) -> str | None:
    """Only a weight per channel is a norm's weight; anything else is arithmetic that happens to follow."""
    odd = next((name for name, value in tensors.items() if value.shape != x.shape[-1:]), None)
    return f"{odd} has the shape {list(tensors[odd].shape)}, not [{x.shape[-1]}]" if odd else None


_PLAIN: Example = {"x": (1, 5, 14), "eps": 1e-6}
_SCALED: Example = {"x": (1, 5, 14), "weight": (14,), "eps": 1e-6}
_SHIFTED: Example = {"x": (1, 5, 14), "weight": (14,), "bias": (14,), "eps": 1e-5}


def _rms_norm(name: str, matches: Callable[..., Tensor], example: Example) -> Pattern:
    def becomes(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
        return ops.rms_norm(x, weight, eps)

    return Pattern(name, "norm", matches, becomes, example, _vectors)


def _layer(name: str, matches: Callable[..., Tensor], example: Example) -> Pattern:
    def becomes(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return ops.layer_norm(x, weight, bias, eps)

    return Pattern(name, "norm", matches, becomes, example, _vectors)


PATTERNS = (
    # The longer ones first, of which the shorter ones are parts; layer norms contain a root-mean-square.
    _layer("layer_norm.written_out", _written_out_shifted, _SHIFTED),
    _layer("layer_norm.written_out.without_bias", _written_out_scaled, _SCALED),
    _layer("layer_norm.written_out.without_weight", _written_out, _PLAIN),
    _rms_norm("rms_norm", _rms_scaled, _SCALED),
    _rms_norm("rms_norm.without_weight", _rms, _PLAIN),
    _rms_norm("rms_norm.native", _rms_native_scaled, _SCALED),
    _rms_norm("rms_norm.native.without_weight", _rms_native, _PLAIN),
    _layer("layer_norm", _layer_norm_shifted, _SHIFTED),
    _layer("layer_norm.without_bias", _layer_norm_scaled, _SCALED),
    _layer("layer_norm.without_weight", _layer_norm, _PLAIN),
)
