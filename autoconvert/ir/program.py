"""The program that passes rewrite: one graph, the weights it names, and the states it keeps."""

from dataclasses import dataclass, field, replace

from torch import fx

from autoconvert.ir.fusion import Fusion
from autoconvert.ir.state import State
from autoconvert.ir.weight import Weight


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
    fusion: Fusion = field(default_factory=Fusion)

    def with_graph(self, graph: fx.GraphModule) -> "Program":
        return replace(self, graph=graph)
