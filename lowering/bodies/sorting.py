"""Orders on the device: TOPK_V2 is the one operation that compares entries and says where they were.

Parameters are named as the operations' own, whose bodies are called by name.
"""

import torch
from torch import Tensor

from autoconvert.lowering.tfl_operations import tfl_operations


def topk(self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """As aten.topk; the converter's own lowering sorts where all entries are asked for, which the device cannot."""
    # Truth is ordered as the numbers 0 and 1; in 32 bits every narrower number has its negative.
    is_narrow = not self.is_floating_point() and self.dtype.itemsize < 4
    moved = (self.to(torch.int32) if is_narrow else self).transpose(dim, -1)
    values, indices = tfl_operations().topk_v2(moved if largest else _reversed(moved), k)
    values = values if largest else _reversed(values)
    return values.transpose(dim, -1).to(self.dtype), indices.to(torch.int64).transpose(dim, -1)


def _reversed(x: Tensor) -> Tensor:
    """The same numbers in the opposite order, and back; of whole numbers the least has no negative, but −1 − x."""
    return -x if x.is_floating_point() else -x - 1


def sort(self: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """As aten.sort; of equal entries the first stays first."""
    return topk(self, self.shape[dim], dim, largest=descending)


def stable_sort(self: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """As aten.sort.stable."""
    return sort(self, dim, descending)


def argsort(self: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """As aten.argsort."""
    return sort(self, dim, descending)[1]
