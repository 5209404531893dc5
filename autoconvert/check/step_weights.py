"""The weights of a file that is run step by step, as their source has them: the file's operations in float32."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from autoconvert.ir.weight import Weight
from autoconvert.source.weights import Weights


@dataclass(frozen=True)
class StepWeights:
    """Weights by name, float32, made of what `source` reads."""

    weights: Mapping[str, Weight]
    source: Weights

    @property
    def names(self) -> Collection[str]:
        return self.weights.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.weights[name].shape)

    def is_by_rows(self, name: str) -> bool:
        """Whether the weight is its source as it is, so that some rows can be read without the others."""
        return self.weights[name].program is None and bool(self.weights[name].shape)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.source.read_rows(self.weights[name].sources[0], start, stop).float()

    def read(self, name: str) -> Tensor:
        weight = self.weights[name]
        return weight.evaluate(self.source.read).reshape(weight.shape)
