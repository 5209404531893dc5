"""A running sum along a sequence, as a scan: its state is the sum so far."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoconvert.ir.types import Infer, TensorType


class RunningSum(nn.Module):
    """Gives, for `x` [positions, width], the sum of the rows up to each, in the type of `x`.

    It is computed in float32: exact for whole numbers up to 2²⁴, which is more than any context.
    """

    unrolls = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.states = ((width,),)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        (sums,), _ = self.run(torch.arange(len(x)), [torch.zeros(1, *self.states[0])], [x])
        return (sums,)

    def run(
        self, input_pos: Tensor, states: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As Scan.run: padding, where `input_pos` does not grow, adds nothing to the state."""
        (before,), (x,) = states, inputs
        chunk, rows = len(x), x.to(torch.float32)
        sums = before + torch.ones(chunk, chunk).tril() @ rows
        if chunk == 1:
            return [sums.to(x.dtype)], [sums]
        is_real = torch.cat([torch.ones(1, dtype=torch.bool), input_pos[1:] > input_pos[:-1]])
        after = before + torch.where(is_real[:, None], rows, 0.0).sum(0, keepdim=True)
        return [sums.to(x.dtype)], [after]

    def types(self, inputs: Sequence[TensorType], infer: Infer) -> tuple[TensorType, ...]:
        """The types of what `forward` gives."""
        return self.types_of_run(inputs, infer)[0]

    def types_of_run(
        self, inputs: Sequence[TensorType], infer: Infer
    ) -> tuple[tuple[TensorType, ...], tuple[TensorType, ...]]:
        """The types of what `run` gives."""
        (x,) = inputs
        return (x,), (TensorType(torch.float32, (1, *self.states[0])),)
