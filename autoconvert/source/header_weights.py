"""Weights of which only the headers are known: enough to plan with, nothing to read."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch

from autoconvert.errors import InputError
from autoconvert.source.safetensors_file import DTYPES
from autoconvert.source.weights import pieces_of


@dataclass(frozen=True)
class Header:
    """What a safetensors header says of a tensor: its shape, and its dtype as the format names it."""

    shape: tuple[int, ...]
    dtype: str


class HeaderWeights:
    """As `Weights`, but reading raises InputError. `metadata` is what the headers say beside tensors."""

    def __init__(self, headers: Mapping[str, Header], metadata: Mapping[str, str] | None = None) -> None:
        self._headers = headers
        self.metadata: Mapping[str, str] = metadata or {}

    def names(self) -> Collection[str]:
        return self._headers.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._headers[name].shape

    def dtype(self, name: str) -> torch.dtype:
        if (dtype := DTYPES.get(self._headers[name].dtype)) is None:
            raise InputError(
                f"tensor {name} has dtype {self._headers[name].dtype}, not supported yet",
                hint="use a checkpoint in bfloat16, float16 or float32",
            )
        return dtype

    def nbytes(self, name: str) -> int:
        return math.prod(self.shape(name)) * self.dtype(name).itemsize

    def read(self, name: str) -> torch.Tensor:
        raise InputError(f"{name} was not downloaded", hint="Convert the model, or plan with a folder.")

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.read(name)

    def pieces(self, name: str) -> Iterator[memoryview]:
        return pieces_of(self.read(name))
