"""Gated feed-forward layers: SwiGLU and its relatives, with biases or without, of two matrices or one fused."""

import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.ops.feed_forward import ACTIVATIONS
from autoconvert.rewrite.pattern import Example, Pattern

_EXAMPLE: Example = {"x": (1, 5, 14), "gate": (22, 14), "up": (22, 14), "down": (14, 22)}


def _plain(activation: str) -> Pattern:
    function = ACTIVATIONS[activation]

    def matches(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return F.linear(function(F.linear(x, gate)) * F.linear(x, up), down)

    return Pattern(
        name=f"gated_feed_forward.{activation}",
        block="feed_forward",
        matches=matches,
        becomes=lambda x, gate, up, down: ops.gated_feed_forward(x, gate, up, down, None, None, None, activation),
        example=_EXAMPLE,
    )


def _fused(activation: str) -> Pattern:
    function = ACTIVATIONS[activation]

    def matches(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
        return F.linear(function(gate) * up, down)

    return Pattern(
        name=f"gated_feed_forward.{activation}.fused",
        block="feed_forward",
        matches=matches,
        becomes=lambda x, gate_up, down: ops.gated_feed_forward(x, gate_up, None, down, None, None, None, activation),
        example={"x": (1, 5, 14), "gate_up": (44, 14), "down": (14, 22)},
        guard=lambda x, gate_up, down: _halves(gate_up, down),
    )


def _halves(gate_up: Tensor, down: Tensor) -> str | None:
    if gate_up.shape[0] == 2 * down.shape[1]:
        return None
    return f"{gate_up.shape[0]} rows are not two for each of {down.shape[1]} columns"


def _biased(activation: str) -> Pattern:
    function = ACTIVATIONS[activation]

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
        example={**_EXAMPLE, "gate_bias": (22,), "up_bias": (22,), "down_bias": (14,)},
    )


PATTERNS = (
    *(_plain(activation) for activation in ACTIVATIONS),
    *(_fused(activation) for activation in ("silu", "gelu")),
    _biased("gelu_tanh"),
)
