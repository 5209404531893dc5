"""The flow of values that tokens decide: what is computed of what, and where all ways to a value pass."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import networkx as nx
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.ir.program import Program


class TokenFlow:
    """The values of a program's graph that tokens decide, `nodes` in its order, and how one comes of another."""

    def __init__(self, program: Program) -> None:
        self.graph = graph = program.graph.graph
        self.symbol = program.followed
        self.times = binding_times(program)
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        self.nodes = [n for n in graph.nodes if n.op == "call_function" and self.is_token(n)]

    def is_token(self, node: fx.Node) -> bool:
        return self.times.get(node) is Time.TOKEN and (isinstance(node.meta.get("val"), Tensor | list | tuple))

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The operands that tokens decide."""
        return [n for n in node.all_input_nodes if self.is_token(n)]

    def users(self, node: fx.Node) -> list[fx.Node]:
        return [user for user in node.users if user.op == "call_function" and self.is_token(user)]

    @cached_property
    def of_tokens(self) -> set[fx.Node]:
        """The nodes that depend on tokens, which a weight looked up by positions does not."""
        found = {node for node in self.graph.nodes if node.op == "placeholder" and self.is_token(node)}
        for node in self.nodes:
            if not found.isdisjoint(node.all_input_nodes):
                found.add(node)
        return found

    @cached_property
    def histories(self) -> set[fx.Node]:
        """What a single step knows of those before it: histories, and what is computed from them alone."""
        found: set[fx.Node] = set()
        for node in self.nodes:
            operands = self.operands(node)
            if node.target is ops.history or (operands and found.issuperset(operands)):
                found.add(node)
        return found

    @property
    def looking_back(self) -> list[fx.Node]:
        """What takes a step together with those before it, in order."""
        return [n for n in self.nodes if n not in self.histories and not self.histories.isdisjoint(self.operands(n))]

    @cached_property
    def _edges(self) -> "nx.DiGraph[fx.Node | str]":
        edges: nx.DiGraph[fx.Node | str] = nx.DiGraph()
        for node in self.nodes:
            for operand in self.operands(node):
                edges.add_edge(operand, node)
        for node in [n for n in edges if edges.in_degree(n) == 0]:
            edges.add_edge("start", node)
        return edges

    @cached_property
    def _dominators(self) -> dict[Any, Any]:
        return nx.immediate_dominators(self._edges, "start") if self._edges else {}

    def entry(self, node: fx.Node) -> fx.Node | None:
        """The last value that all ways from the tokens to `node` pass."""
        found = self._dominators.get(node)
        return found if isinstance(found, fx.Node) else None

    def between(self, entry: fx.Node, output: fx.Node) -> list[fx.Node]:
        """What computes `output` from `entry`, in order."""
        found: set[fx.Node] = set()
        pending = [output]
        while pending:
            node = pending.pop()
            if node not in found and node is not entry:
                found.add(node)
                pending.extend(self.operands(node))
        return sorted(found, key=self.order.__getitem__)

    def before(self, node: fx.Node, through: Iterable[fx.Node]) -> list[fx.Node]:
        """Those of `through` that `node` is computed from by others of them."""
        inside, found, pending = set(through), set(), [node]
        while pending:
            for operand in pending.pop().all_input_nodes:
                if operand in inside and operand not in found:
                    found.add(operand)
                    pending.append(operand)
        return sorted(found, key=self.order.__getitem__)
