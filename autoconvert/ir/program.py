"""The program that passes rewrite: one graph, and what goes in, comes out and stays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import sympy
from torch import fx

from autoconvert.ir.fusion import Fusion
from autoconvert.ir.interface import Interface, Port, Role
from autoconvert.ir.nodes import named_results
from autoconvert.ir.state import State
from autoconvert.ir.weight import Weight

# The symbol of a text's length, and that of texts that run side by side.
LENGTH = "length"
TEXTS = "texts"
# How many entries the states hold that a call is given: the capacity, or as many as a text needs by then.
HISTORY = "history"


@dataclass(frozen=True)
class Program:
    """A graph from named inputs to named outputs.

    `graph` is executable: a placeholder for each port of `inputs`, `states` and `weights`; it returns a dict with
    `outputs` and the states by name. `symbols` are the sizes that are no numbers, by their names. `streamed` names the
    one along which a run may be split into calls; None where each call has all.
    """

    graph: fx.GraphModule
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    weights: Mapping[str, Weight] = field(default_factory=dict)
    states: tuple[State, ...] = ()
    symbols: Mapping[str, sympy.Symbol] = field(default_factory=dict)
    streamed: str | None = None
    fusion: Fusion = field(default_factory=Fusion)

    def with_graph(self, graph: fx.GraphModule) -> "Program":
        return replace(self, graph=graph)

    @property
    def interface(self) -> Interface:
        return Interface(self.inputs, self.outputs)

    @property
    def ports(self) -> tuple[Port, ...]:
        """Everything that goes in, states and weights too."""
        states, weights = (state.port for state in self.states), (weight.port for weight in self.weights.values())
        return (*self.inputs, *states, *weights)

    @cached_property
    def roles(self) -> Mapping[str, Role]:
        """What each placeholder is for, by its name."""
        return {port.name: port.role for port in self.ports}

    @property
    def stream(self) -> sympy.Symbol | None:
        """The symbol along which a run may be split."""
        return None if self.streamed is None else self.symbols[self.streamed]

    @property
    def followed(self) -> sympy.Symbol | None:
        """The symbol that analyses follow: that of the text, or of the texts that run side by side."""
        return self.symbols.get(self.streamed or next(iter(self.symbols), ""))

    def find_input(self, role: Role) -> fx.Node | None:
        """The placeholder of the one input with this role, if there is one."""
        names = {port.name for port in self.inputs if port.role is role}
        return next((node for node in self.graph.graph.find_nodes(op="placeholder") if node.target in names), None)

    def input(self, role: Role) -> fx.Node:
        """The placeholder of the one input with this role."""
        node = self.find_input(role)
        assert node is not None, f"the program has no input for {role.value}"
        return node

    def result(self, role: Role) -> fx.Node:
        """What the graph returns in the one output with this role."""
        (name,) = (port.name for port in self.outputs if port.role is role)
        return named_results(self.graph.graph)[name]

    def state_nodes(self) -> dict[str, fx.Node]:
        """The placeholders of states, by name."""
        names = {state.name for state in self.states}
        nodes = self.graph.graph.find_nodes(op="placeholder")
        return {str(node.target): node for node in nodes if node.target in names}
