"""Recurrences in the trace of a step: which operations lie between a state and the state after it.

A state's core is what is on a path from it to the next state. What is computed from the core joins it as long as
that makes fewer numbers leave it: a minimum cut, in which no matrix of weights is drawn into the recurrence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoconvert.analysis.regions import ancestors
from autoconvert.ir.nodes import is_symbolic, shape

# How many operations after the core may join it.
_REACH = 8


@dataclass(frozen=True)
class Region:
    """States that need each other: `before` and `after` a step, and the `nodes` of the step in order."""

    before: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]

    @property
    def inputs(self) -> list[fx.Node]:
        """The tensors that the step takes besides its states."""
        inside = {*self.nodes, *self.before}
        operands = dict.fromkeys(operand for node in self.nodes for operand in node.all_input_nodes)
        after = [node for node in self.after if node not in inside]
        return [n for n in dict.fromkeys([*operands, *after]) if n not in inside and not is_size(n)]

    @property
    def outputs(self) -> list[fx.Node]:
        """The values, states included, that are used outside the step."""
        inside = set(self.nodes)
        return [
            node
            for node in (*self.before, *self.nodes)
            if any(user not in inside and user.op != "output" and not is_size(user) for user in node.users)
        ]


def find_recurrences(graph: fx.Graph, states: Sequence[tuple[fx.Node, fx.Node]]) -> list[Region]:
    """The recurrences of a step whose states are pairs of (before: a placeholder, after: what the graph returns)."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    reached = [descendants(before) for before, _ in states]
    needed = [ancestors([after]) for _, after in states]
    regions = []
    for group in _groups(reached, states):
        ahead = set().union(*(reached[index] for index in group))
        core = ahead & set().union(*(needed[index] for index in group))
        before = {states[index][0] for index in group}
        nodes = _fewest_numbers_out(core | before, ahead) - before
        regions.append(
            Region(
                tuple(states[index][0] for index in group),
                tuple(states[index][1] for index in group),
                tuple(sorted(nodes, key=order.__getitem__)),
            )
        )
    return regions


def descendants(node: fx.Node) -> set[fx.Node]:
    """The node itself and every tensor computed from it."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current not in found and current.op != "output" and not is_size(current):
            found.add(current)
            pending.extend(current.users)
    return found


def is_size(node: fx.Node) -> bool:
    """Whether the node's value is a size, which says nothing about what a tensor holds."""
    return isinstance(node.meta.get("val"), torch.SymInt)


def _groups(reached: list[set[fx.Node]], states: Sequence[tuple[fx.Node, fx.Node]]) -> list[list[int]]:
    """States that each lead to the other's next value belong to one recurrence."""
    # Only models with a state need it.
    import networkx as nx

    leads: nx.DiGraph[int] = nx.DiGraph()
    leads.add_nodes_from(range(len(states)))
    for one in range(len(states)):
        leads.add_edges_from((one, other) for other in range(len(states)) if states[other][1] in reached[one])
    return sorted(sorted(group) for group in nx.strongly_connected_components(leads))


def _fewest_numbers_out(core: set[fx.Node], ahead: set[fx.Node]) -> set[fx.Node]:
    """The core and those after it that make the fewest numbers of a position leave; of equal ones the largest."""
    candidates = _candidates(core, ahead)
    import networkx as nx

    flow: nx.DiGraph[Any] = nx.DiGraph()
    for node in candidates:
        # A value that leaves is paid for once, however many use it.
        flow.add_edge(node, (node, "leaves"), capacity=_numbers(node))
        for user in node.users:
            if user.op != "output" and not is_size(user):
                flow.add_edge((node, "leaves"), user if user in candidates else "outside")
        for operand in node.all_input_nodes:
            if operand in candidates:
                flow.add_edge(node, operand)
    for node in core:
        flow.add_edge("core", node)
    if "outside" not in flow:
        return core
    _, (inside, _) = nx.minimum_cut(flow, "core", "outside")
    return {node for node in inside if isinstance(node, fx.Node)}


def _candidates(core: set[fx.Node], ahead: set[fx.Node]) -> set[fx.Node]:
    found = set(core)
    for _ in range(_REACH):
        users = {user for node in found for user in node.users} - found
        joining = {user for user in users if _may_join(user) and set(user.all_input_nodes) & ahead <= found}
        if not joining:
            break
        found |= joining
    return found


def _may_join(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten" or is_size(node):
        return False
    return not any(_is_matrix(operand) for operand in node.all_input_nodes)


def _is_matrix(node: fx.Node) -> bool:
    """A matrix of the model, or something as large: no symbolic axis, and more than one that is not 1."""
    sizes = shape(node)
    return not any(map(is_symbolic, sizes)) and sum(size != 1 for size in sizes) > 1


def _numbers(node: fx.Node) -> int:
    """How many numbers of one position the value holds."""
    count = 1
    for size in shape(node):
        count *= 1 if is_symbolic(size) else int(size)
    return count
