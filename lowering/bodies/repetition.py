"""Repetition on the device: by concatenation, or by looking one entry up again and again.

BROADCAST_TO would be the operation, but litert-converter 0.5.0 drops a transpose of what it gives: the interpreter
refuses the file, or runs it and is wrong.

Parameters are named as the operation's own, whose body is called by name.
"""

import torch
from torch import Tensor

_MOST_OPERANDS = 16


def expand(self: Tensor, size: list[int], implicit: bool = False) -> Tensor:
    """As aten.expand: axes of size 1 are repeated, new axes lead."""
    x = self.reshape([1] * (len(size) - self.dim()) + list(self.shape))
    for axis, count in enumerate(size):
        if x.shape[axis] == 1 and count > 1:
            x = _repeated(x, axis, count)
    return x


def _repeated(x: Tensor, axis: int, count: int) -> Tensor:
    if count <= _MOST_OPERANDS:
        return torch.cat([x] * count, axis)
    return x.index_select(axis, torch.zeros(count, dtype=torch.int64))
