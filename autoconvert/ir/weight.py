"""Weights: constants of the device's graph, as expressions over the tensors of a checkpoint."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from autoconvert.ir.interface import Port, Role

ReadTensor = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Weight:
    """A constant of the device graph, as an expression over checkpoint tensors.

    The graph has a placeholder of the same `name`. `sources` are names of the module's parameters or
    buffers; without a `program` the weight is the one source as it is, otherwise it is
    `program(*sources)`, each read and cast to float32 first.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    program: fx.GraphModule | None = None

    def is_as(self, other: "Weight") -> bool:
        """Whether both are the same expression over the same tensors; False also where that cannot be told."""
        return _description(self) == _description(other)

    @property
    def port(self) -> Port:
        return Port(self.name, Role.WEIGHT, torch.float32, self.shape)

    def evaluate(self, read: ReadTensor) -> torch.Tensor:
        """The weight's value, float32 of `shape`, reading each source through `read` once."""
        sources = [read(name).to(torch.float32) for name in self.sources]
        return sources[0] if self.program is None else self.program(*sources)


def _description(weight: Weight) -> tuple[object, ...]:
    """What decides a weight's value. A tensor in its expression is told by which it is."""
    given = (weight.name, weight.shape, weight.sources)
    if weight.program is None:
        return given
    constants = [
        (str(node.target), id(operator.attrgetter(str(node.target))(weight.program)))
        for node in weight.program.graph.find_nodes(op="get_attr")
    ]
    return (*given, str(weight.program.graph), *constants)
