"""How a semantic operation is made: one body in plain PyTorch, from which everything else follows."""

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

Body = Callable[..., Any]


def semantic(body: Body, fake: Body | None = None) -> OpOverload:
    """Registers `body` as the operation `autoconvert::<its name>`, traced as one node and executable as it is.

    `fake` gives a value of the same shape where the body itself needs real numbers.
    """
    operation = torch.library.custom_op(f"autoconvert::{body.__name__}", body, mutates_args=())
    operation.register_fake(fake or body)
    packet = getattr(torch.ops.autoconvert, body.__name__)
    overload: OpOverload = packet.default
    return overload
