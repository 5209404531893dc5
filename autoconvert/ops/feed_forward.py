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
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
) -> Tensor:
    """Gated feed-forward (Shazeer, 2020): down(activation(gate(x)) · up(x)).

    `x` [..., width], `gate` and `up` [inner, width], `down` [width, inner], biases [inner] and [width];
    without `up`, `gate` holds the rows of both, [2 · inner, width], and its bias as well. `activation` is a name
    in ACTIVATIONS.
    """
    if up is None:
        gated, linear = F.linear(x, gate, gate_bias).chunk(2, dim=-1)
    else:
        gated, linear = F.linear(x, gate, gate_bias), F.linear(x, up, up_bias)
    return F.linear(ACTIVATIONS[activation](gated) * linear, down, down_bias)
