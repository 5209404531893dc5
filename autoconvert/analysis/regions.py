"""Regions: the part of a graph that some values are computed from, as a graph of its own."""

from collections.abc import Iterable

from torch import fx

from autoconvert.ir.graph_module import graph_module


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes themselves and everything they are computed from."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def extract(owner: fx.GraphModule, outputs: list[fx.Node]) -> fx.GraphModule:
    """A module that computes `outputs` (as a tuple) from the placeholders they need, in the graph's order."""
    needed = ancestors(outputs)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in owner.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(tuple(copies[node] for node in outputs))
    return graph_module(owner, graph)
