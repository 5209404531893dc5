"""The weights of a file that is run step by step: as their source has them, or rounded as the file has them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoconvert.check.stored import Constants, Stored
from autoconvert.ir.weight import Weight
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.recipe import Recipe
from autoconvert.runtime.steps import known_name
from autoconvert.source.weights import Weights


@dataclass(frozen=True)
class StepWeights(ABC):
    """Weights by name, float32, and what a product takes as its other factor."""

    weights: Mapping[str, Weight]

    @property
    def names(self) -> Collection[str]:
        return self.weights.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.weights[name].shape)

    @abstractmethod
    def is_by_rows(self, name: str) -> bool:
        """Whether some rows can be read without the others."""

    @abstractmethod
    def read_rows(self, name: str, start: int, stop: int) -> Tensor: ...

    @abstractmethod
    def read(self, name: str) -> Tensor: ...

    def factor(self, name: str, x: Tensor) -> Tensor:
        """Rows [rows, columns] as a product with the weight takes them."""
        return x


@dataclass(frozen=True)
class OfTheSource(StepWeights):
    """Every weight as its source has it: the file's operations in float32."""

    source: Weights

    def is_by_rows(self, name: str) -> bool:
        """Whether the weight is its source as it is."""
        return self.weights[name].program is None and bool(self.weights[name].shape)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.source.read_rows(self.weights[name].sources[0], start, stop).float()

    def read(self, name: str) -> Tensor:
        weight = self.weights[name]
        return weight.evaluate(self.source.read).reshape(weight.shape)


@dataclass(frozen=True)
class OfTheFile(StepWeights):
    """Every weight as the file at `path` has it; what is multiplied with integers is rounded as their kernels do."""

    path: Path
    recipe: Recipe

    @cached_property
    def _constants(self) -> Constants:
        return Constants(self.path)

    @cached_property
    def _stored(self) -> dict[str, Stored]:
        """By the name of the weight; signatures have tensors of their own for one weight."""
        named = {known_name(name, self.weights): stored for name, stored in self._constants.tensors.items()}
        return {name: stored for name, stored in named.items() if name is not None}

    def _encoding(self, name: str) -> Encoding:
        encodings = self.recipe.encodings_of(self.weights[name].sources)
        return next(encoding for encoding in encodings if self._stored[name].may_be(encoding))

    def is_by_rows(self, name: str) -> bool:
        return bool(self.weights[name].shape) and self._encoding(name).by_rows

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        rows = self._constants.numbers(self._stored[name], self._encoding(name), start, stop)
        return torch.from_numpy(rows.reshape(stop - start, *self.shape(name)[1:]))

    def read(self, name: str) -> Tensor:
        return self._constants.read(self._stored[name].name, [self._encoding(name)])

    def factor(self, name: str, x: Tensor) -> Tensor:
        encoding = self._encoding(name)
        takes_integers = np.issubdtype(encoding.dtype, np.integer) and encoding.dequantize_version is None
        return rounded_rows(x) if takes_integers else x


def rounded_rows(x: Tensor) -> Tensor:
    """Rows [rows, columns] in 256 steps between the smallest and the largest number of each, zero among them.

    As XNNPACK rounds what is multiplied with int8 (`xnn_f32_qd8_asymmetric_quantization_params`).
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    zero = torch.round(-128 - low / scale).clamp(-128, 127)
    return ((torch.round(x / scale) + zero).clamp(-128, 127) - zero) * scale
