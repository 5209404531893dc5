"""What became of every tensor of a checkpoint."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from autoconvert.source.module_weights import ModuleWeights
from autoconvert.source.source import Source


@dataclass(frozen=True)
class Row:
    """One tensor of the checkpoint: whether the converted model uses it, and as what or why not."""

    name: str
    status: Literal["used", "tied", "left out"]
    reason: str
    nbytes: int


def require(source: Source, used: Collection[str]) -> None:
    """Raise InputError naming the tensor if the checkpoint lacks one of `used`, or holds it in another shape or in an
    unsupported dtype.
    """
    weights = module_weights(source)
    for name in used:
        weights.check(name)


def account(source: Source, used: Collection[str]) -> tuple[Row, ...]:
    """A row for every tensor of the checkpoint, in its order.

    `used` are the names of the module's parameters and buffers that the traced graph reaches; raises as `require`.
    """
    weights = module_weights(source)
    require(source, used)
    made: dict[str, list[str]] = {}
    for name in weights.names():
        for tensor in weights.sources(name):
            made.setdefault(tensor, []).append(name)
    read = {tensor: name for name in used for tensor in weights.sources(name)}
    identity = {name: id(parameter) for name, parameter in source.module.named_parameters(remove_duplicate=False)}
    twins = {identity[name]: name for name in used if name in identity}

    def row(tensor: str, nbytes: int) -> Row:
        if tensor in read:
            return Row(tensor, "used", f"is {read[tensor]}", nbytes)
        names = made.get(tensor, [])
        if twin := next((twins[identity[name]] for name in names if identity.get(name) in twins), None):
            return Row(tensor, "tied", f"the same parameter as {twin}", nbytes)
        if names:
            return Row(tensor, "left out", f"the traced graph does not reach {names[0]}", nbytes)
        return Row(tensor, "left out", source.unmatched.get(tensor, "another tensor takes its place"), nbytes)

    return tuple(row(tensor, nbytes) for tensor, nbytes in source.checkpoint.items())


def module_weights(source: Source) -> ModuleWeights:
    """The weights of a source by the names of its module, and what they are made of."""
    weights = source.weights
    if not isinstance(weights, ModuleWeights):
        raise TypeError(f"a source made by load_source, not one with {type(weights).__name__}")
    return weights
