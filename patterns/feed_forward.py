"""Gated feed-forward layers: SwiGLU and its relatives, with biases or without."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.ops.feed_forward import ACTIVATIONS
from autoconvert.pattern import Example, Pattern, tensor


def _plain(activation: str, function: Callable[[Tensor], Tensor]) -> Pattern:
    def matches(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return F.linear(function(F.linear(x, gate)) * F.linear(x, up), down)

    return Pattern(
        name=f"gated_feed_forward.{activation}",
        block="feed_forward",
        matches=matches,
        becomes=lambda x, gate, up, down: ops.gated_feed_forward(x, gate, up, down, None, None, None, activation),
        example=_inputs,
    )


def _biased(activation: str, function: Callable[[Tensor], Tensor]) -> Pattern:
    def matches(
        x: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        gate_bias: Tensor,
        up_bias: Tensor,
        down_bias: Tensor,
    ) -> Tensor:
        return F.linear(function(F.linear(x, gate, gate_bias)) * F.linear(x, up, up_bias), down, down_bias)

    return Pattern(
        name=f"gated_feed_forward.{activation}.biased",
        block="feed_forward",
        matches=matches,
        becomes=lambda x, gate, up, down, gate_bias, up_bias, down_bias: ops.gated_feed_forward(
            x, gate, up, down, gate_bias, up_bias, down_bias, activation
        ),
        example=lambda: {
            **_inputs(),
            "gate_bias": tensor(22),
            "up_bias": tensor(22),
            "down_bias": tensor(14),
        },
    )


def _inputs() -> Example:
    return {"x": tensor(1, 5, 14), "gate": tensor(22, 14), "up": tensor(22, 14), "down": tensor(14, 22)}


PATTERNS = tuple(make(name, function) for name, function in ACTIVATIONS.items() for make in (_plain, _biased))
