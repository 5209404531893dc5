"""A checkpoint whose every name has a prefix, as wrappers leave it when they are saved with the model in them."""

from collections.abc import Collection, Iterator

import torch
from torch import nn

from autoconvert.errors import InputError
from autoconvert.source.conversion import Plan, plan_conversion
from autoconvert.source.module_weights import ties
from autoconvert.source.quantized.decoding import Checkpoint, DecodedWeights
from autoconvert.source.weights import StoredWeights


class WithoutPrefix:
    """As `StoredWeights`, by names without the `prefix` that all of them have."""

    def __init__(self, weights: StoredWeights, prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def names(self) -> Collection[str]:
        return [name.removeprefix(self._prefix) for name in self._weights.names()]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(self._prefix + name)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights.dtype(self._prefix + name)

    def nbytes(self, name: str) -> int:
        return self._weights.nbytes(self._prefix + name)

    def read(self, name: str) -> torch.Tensor:
        return self._weights.read(self._prefix + name)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._weights.read_rows(self._prefix + name, start, stop)

    def pieces(self, name: str) -> Iterator[memoryview]:
        return self._weights.pieces(self._prefix + name)


def match(module: nn.Module, checkpoint: Checkpoint) -> tuple[Plan, Checkpoint, tuple[str, ...]]:
    """How the tensors of `module` are made, of which weights, and what there is to say about it.

    Where some are missing, and all are there without a prefix that every name has, that prefix is left out.

    Raises:
        InputError: nothing in the checkpoint belongs to the module.
    """
    plan = plan_conversion(module, checkpoint)
    if not _missing(module, plan):
        return plan, checkpoint, ()
    for prefix in _shared_prefixes(checkpoint.names()):
        stripped = _without(checkpoint, prefix)
        without = plan_conversion(module, stripped)
        if not _missing(module, without):
            return without, stripped, (f"every name of the checkpoint begins with {prefix}, which was left out",)
    if checkpoint.names() and not plan.derivations:
        name = next(iter(sorted(checkpoint.names())))
        wanted = next(iter(module.state_dict()), "none")
        raise InputError(
            f"none of the checkpoint's {len(checkpoint.names())} tensors belongs to the model: they are named like "
            f"{name}, the model's like {wanted}",
            hint="check that config.json belongs to this checkpoint",
        )
    return plan, checkpoint, ()


def _without(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    if not isinstance(checkpoint, DecodedWeights):
        return WithoutPrefix(checkpoint, prefix)
    return checkpoint.renamed(WithoutPrefix(checkpoint.stored, prefix), lambda name: name.removeprefix(prefix))


def _missing(module: nn.Module, plan: Plan) -> list[str]:
    """Parameters that nothing in the checkpoint gives, under none of their names."""
    given = set(plan.derivations)
    for group in ties(module):
        if given.intersection(group):
            given.update(group)
    return [name for name, _ in module.named_parameters() if name not in given]


def _shared_prefixes(names: Collection[str]) -> list[str]:
    """What all names have before a dot, the shortest first."""
    first = next(iter(names), "")
    prefixes = (first[: place + 1] for place, letter in enumerate(first) if letter == ".")
    return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)]
