"""The program that passes rewrite: one graph, the weights it names, and the states it keeps."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import fx

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

    def evaluate(self, read: ReadTensor) -> torch.Tensor:
        """The weight's value, float32 of `shape`, reading each source through `read` once."""
        sources = [read(name).to(torch.float32) for name in self.sources]
        return sources[0] if self.program is None else self.program(*sources)


@dataclass(frozen=True)
class State:
    """A tensor that lives from call to call: input and output of every signature under one name.

    Keys and values have the context as their `sequence_axis`; what a recurrence keeps has none.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["key", "value", "recurrent"]
    sequence_axis: int | None
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class NearMiss:
    """A pattern that began to match: how many of its operations did, and why the next one did not.

    `node` is where its output would be, `covered` are the nodes that matched, and `differs` is the one that did not:
    names of nodes. `place` says where in the model that is. Both are "" where all matched and the guard declined.
    """

    pattern: str
    node: str
    matched: int
    of: int
    reason: str
    place: str = ""
    differs: str = ""
    covered: tuple[str, ...] = ()

    @property
    def is_declined(self) -> bool:
        """Whether the guard said no, all operations being there."""
        return self.matched == self.of and not self.place

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"pattern {self.pattern} matched {self.matched} of {self.of} operations: {place}{self.reason}"


@dataclass(frozen=True)
class Recognised:
    """A block that was found: `node` stands for the nodes `replaced`, of which `output` was the last.

    All are names of nodes, those that were replaced in the graph before any block was.
    """

    pattern: str
    block: str
    node: str
    output: str
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Recognition:
    """What was found: matches by pattern and by kind of block, and for values that matched nothing the nearest.

    `found` are the blocks that are still there at the end, in the graph's order.
    """

    patterns: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, int] = field(default_factory=dict)
    near_misses: tuple[NearMiss, ...] = ()
    found: tuple[Recognised, ...] = ()

    def nearest(self) -> list[NearMiss]:
        """The near misses that came closest, each pattern and reason once; what a guard declined had all operations."""
        ranked = sorted(self.near_misses, key=lambda miss: (miss.is_declined, miss.matched / miss.of), reverse=True)
        return list({(miss.pattern, miss.matched): miss for miss in reversed(ranked)}.values())[::-1]


@dataclass(frozen=True)
class Program:
    """A graph from named inputs to named outputs.

    `graph` is executable: placeholders are user inputs, weights and states; it returns a dict by output name.
    `context` is the largest number of positions; None before the program is made stateful.
    """

    graph: fx.GraphModule
    weights: dict[str, Weight] = field(default_factory=dict)
    states: tuple[State, ...] = ()
    context: int | None = None
    recognition: Recognition = field(default_factory=Recognition)

    def with_graph(self, graph: fx.GraphModule) -> "Program":
        return replace(self, graph=graph)
