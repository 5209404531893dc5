"""The weights of a module by its own names: made by derivations, ties followed, buffers included."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from autoconvert.errors import InputError
from autoconvert.source.derivation import Derivation
from autoconvert.source.quantized.decoding import Checkpoint, sources_of, stored_of
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights, TensorWeights


class ModuleWeights:
    """Tensors of a checkpoint by the names of the module that they belong to.

    A tied parameter reads under each of its names. A buffer that the checkpoint does not hold reads as the
    value that the module computed. A parameter is floating point: other dtypes raise InputError. `checkpoint` has the
    tensors as the files store them, where those of the module are decoded from them.
    """

    def __init__(self, module: nn.Module, checkpoint: Checkpoint, derivations: Mapping[str, Derivation]) -> None:
        self.checkpoint: StoredWeights = stored_of(checkpoint)
        self._tensors = checkpoint
        self._derivations: dict[str, Derivation] = dict(derivations)
        self._buffers = TensorWeights(dict(module.named_buffers(remove_duplicate=False)))
        self._parameters = {
            name: tuple(parameter.shape) for name, parameter in module.named_parameters(remove_duplicate=False)
        }
        for group in ties(module):
            if found := next((name for name in group if name in derivations), None):
                for name in group:
                    self._derivations.setdefault(name, derivations[found])

    def names(self) -> Collection[str]:
        return self._derivations.keys() | set(self._buffers.names())

    def sources(self, name: str) -> tuple[str, ...]:
        """The stored tensors that `name` is made from; none for a buffer that the module computed."""
        made = () if self._computed(name) else self._derivation(name).sources
        return tuple(stored for source in made for stored in sources_of(self._tensors, source))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._buffers.shape(name) if self._computed(name) else self._derivation(name).shape(self._tensors)

    def dtype(self, name: str) -> torch.dtype:
        return self._buffers.dtype(name) if self._computed(name) else self._derivation(name).dtype(self._tensors)

    def nbytes(self, name: str) -> int:
        return torch.Size(self.shape(name)).numel() * self.dtype(name).itemsize

    def read(self, name: str) -> torch.Tensor:
        if self._computed(name):
            return self._buffers.read(name)
        return self._checked(name).read(self._tensors)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        if self._computed(name):
            return self._buffers.read_rows(name, start, stop)
        return self._checked(name).read_rows(self._tensors, start, stop)

    def check(self, name: str) -> None:
        """Raise InputError unless the checkpoint holds `name` in the module's shape and a floating dtype."""
        if not self._computed(name):
            self._checked(name)

    def _computed(self, name: str) -> bool:
        return name not in self._derivations and name in self._buffers.names()

    def _derivation(self, name: str) -> Derivation:
        if name in self._derivations:
            return self._derivations[name]
        if name not in self._parameters:
            raise KeyError(f"the module has no tensor {name}")
        raise InputError(
            f"{name}: the checkpoint has no tensor for it",
            hint="check that the checkpoint is complete and that config.json belongs to it",
        )

    def _checked(self, name: str) -> Derivation:
        derivation = self._derivation(name)
        where = name if derivation.sources == (name,) else f"{name} (from {_listed(derivation.sources)})"
        if name not in self._parameters:
            return derivation
        if (shape := derivation.shape(self._tensors)) != self._parameters[name]:
            raise InputError(
                f"{where}: the checkpoint has shape {list(shape)}, the module {list(self._parameters[name])}",
                hint="check that config.json belongs to this checkpoint",
            )
        if (dtype := derivation.dtype(self._tensors)) not in FLOAT_DTYPES:
            raise InputError(
                f"{where}: dtype {str(dtype).removeprefix('torch.')} is not supported yet as a weight",
                hint="use a checkpoint in bfloat16, float16 or float32",
            )
        return derivation


def ties(module: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}, {len(names)} tensors"
