"""How one tensor of a module is made from the tensors of a checkpoint, reading no more than it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from autoconvert.source.weights import Weights


class Derivation(Protocol):
    """A module's tensor in terms of checkpoint tensors; `sources` are the names it reads."""

    @property
    def sources(self) -> tuple[str, ...]: ...

    def shape(self, checkpoint: Weights) -> tuple[int, ...]: ...

    def dtype(self, checkpoint: Weights) -> torch.dtype: ...

    def read(self, checkpoint: Weights) -> torch.Tensor: ...

    def read_rows(self, checkpoint: Weights, start: int, stop: int) -> torch.Tensor: ...


@dataclass(frozen=True)
class Renamed:
    """The tensor as it is, under another name."""

    source: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    def shape(self, checkpoint: Weights) -> tuple[int, ...]:
        return checkpoint.shape(self.source)

    def dtype(self, checkpoint: Weights) -> torch.dtype:
        return checkpoint.dtype(self.source)

    def read(self, checkpoint: Weights) -> torch.Tensor:
        return checkpoint.read(self.source)

    def read_rows(self, checkpoint: Weights, start: int, stop: int) -> torch.Tensor:
        return checkpoint.read_rows(self.source, start, stop)


Groups = Mapping[str, tuple[str, ...]]
Convert = Callable[[Mapping[str, list[torch.Tensor]]], torch.Tensor]


@dataclass(frozen=True)
class Converted:
    """A function of groups of checkpoint tensors: stacked experts, parts of a fused projection.

    `convert` takes the tensors of each group and gives the module's, of `result`'s shape and dtype. With
    `by_row`, row i of the result depends on the i-th tensor of each group alone, so that a stack is filled
    row by row. With `first_row`, the result is that many rows into the single source, and as many as it has.
    """

    groups: Groups
    convert: Convert
    result: torch.Tensor
    by_row: bool = False
    first_row: int | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(name for names in self.groups.values() for name in names)

    def shape(self, checkpoint: Weights) -> tuple[int, ...]:
        return tuple(self.result.shape)

    def dtype(self, checkpoint: Weights) -> torch.dtype:
        return self.result.dtype

    def read(self, checkpoint: Weights) -> torch.Tensor:
        if self.by_row or self.first_row is not None:
            return self.read_rows(checkpoint, 0, self.result.shape[0])
        return self.convert(self._load(checkpoint, slice(None)))

    def read_rows(self, checkpoint: Weights, start: int, stop: int) -> torch.Tensor:
        if self.first_row is not None:
            return checkpoint.read_rows(self.sources[0], self.first_row + start, self.first_row + stop)
        if not self.by_row:
            return self.read(checkpoint)[start:stop].clone()
        rows = torch.empty((stop - start, *self.result.shape[1:]), dtype=self.result.dtype)
        for row in range(start, stop):
            rows[row - start] = self.convert(self._load(checkpoint, slice(row, row + 1)))[0]
        return rows

    def _load(self, checkpoint: Weights, part: slice) -> dict[str, list[torch.Tensor]]:
        return {group: [checkpoint.read(name) for name in names[part]] for group, names in self.groups.items()}
