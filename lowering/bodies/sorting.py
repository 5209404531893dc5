"""Orders on the device: TOPK_V2 is the one operation that compares entries and says where they were.

Parameters are named as the operations' own, whose bodies are called by name.
"""

import torch
from torch import Tensor

from autoconvert.lowering.tfl_operations import tfl_operations


def topk(self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """As aten.topk; the converter's own lowering sorts where all entries are asked for, which the device cannot."""
    moved = self.transpose(dim, -1)
    values, indices = tfl_operations().topk_v2(moved if largest else -moved, k)
    values = values if largest else -values
    return values.transpose(dim, -1), indices.to(torch.int64).transpose(dim, -1)


def sort(self: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """As aten.sort; of equal entries the first stays first."""
    return topk(self, self.shape[dim], dim, largest=descending)


def stable_sort(self: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """As aten.sort.stable."""
    return sort(self, dim, descending)


def argsort(self: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """As aten.argsort."""
    return sort(self, dim, descending)[1]
