"""A pattern: a building block as PyTorch people write it, and the semantic operation that it is."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.errors import InputError
from autoconvert.rewriting import traced

Example = Mapping[str, Tensor | float]
Guard = Callable[..., str | None]


def _accept(**_: Any) -> None:
    return None


@dataclass(frozen=True)
class Pattern:
    """`matches` and `becomes` are plain PyTorch functions of the same parameters with the same result.

    Parameters annotated `Tensor` bind any value of the graph; those annotated `float` capture a number that
    must stand in the graph as it is. `example` gives a value for every parameter, its sizes distinct: a size
    of the example stands for one size of the model wherever it occurs. `guard` gets what was bound, by name
    (tensors as fake tensors), and returns why it declines, or None.
    """

    name: str
    block: str
    matches: Callable[..., Tensor]
    becomes: Callable[..., Tensor]
    example: Callable[[], Example]
    guard: Guard = field(default=_accept)

    @property
    def source(self) -> str:
        """Where the pattern is written, as file:line."""
        return f"{inspect.getsourcefile(self.matches)}:{self.matches.__code__.co_firstlineno}"

    @cached_property
    def scalars(self) -> dict[float, str]:
        """The numbers that stand for the scalar parameters in the traced pattern."""
        names = [name for name, value in self.example().items() if not isinstance(value, Tensor)]
        return {0.7390851332151607 + index: name for index, name in enumerate(names)}

    @cached_property
    def graph(self) -> fx.GraphModule:
        """The pattern, traced as a model is; its placeholders are the tensor parameters.

        Raises:
            InputError: a number was computed with, or does not show in the traced function; or a constant
                tensor stands in it, which no comparison would see.
        """
        numbers = {name: number for number, name in self.scalars.items()}
        with FakeTensorMode() as mode:
            tensors = {n: mode.from_tensor(v) for n, v in self.example().items() if isinstance(v, Tensor)}
        graph = traced(lambda **bound: self.matches(**bound, **numbers), tensors)
        self._check_scalars(graph.graph)
        self._check_constants(graph.graph)
        return graph

    def _check_scalars(self, graph: fx.Graph) -> None:
        found: set[float] = set()
        for node in graph.nodes:
            fx.node.map_aggregate((node.args, node.kwargs), lambda a: found.add(a) if isinstance(a, float) else None)
        lost = [name for number, name in self.scalars.items() if number not in found]
        if lost:
            raise InputError(
                f"Pattern {self.name} ({self.source}): the number `{lost[0]}` is not in the traced function.",
                hint="Use it as it is, as an operand or argument of an operation; compute in `becomes`.",
            )

    def _check_constants(self, graph: fx.Graph) -> None:
        if graph.find_nodes(op="get_attr"):
            raise InputError(
                f"Pattern {self.name} ({self.source}): a tensor of its own stands in the traced function.",
                hint="Make it a parameter annotated `Tensor`, or use a number.",
            )


def tensor(*shape: int) -> Tensor:
    """Random numbers for an example."""
    return torch.randn(*shape)
