"""Feed-forward layers."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def gated_feed_forward(
    x: Tensor,
    gate: Tensor,
    up: Tensor | None,
    down: Tensor,
    activation: str,
) -> Tensor:
    """Gated feed-forward (Shazeer, 2020): down(activation(gate(x)) · up(x)).

    `x` [..., width], `gate` and `up` [inner, width], `down` [width, inner]; without `up`, `gate` holds
    the rows of both, [2 · inner, width]. `activation` is a name in ACTIVATIONS.
    """
    if up is None:
        gated, linear = F.linear(x, gate).chunk(2, dim=-1)
    else:
        gated, linear = F.linear(x, gate), F.linear(x, up)
    return F.linear(ACTIVATIONS[activation](gated) * linear, down)
