"""Parts of a graph as graphs of their own."""

import operator

import torch
from torch import fx

from autoconvert.analysis.regions import ancestors, extract


def graph() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """(a + b) · 2 and, beside it, c − 1."""
    made = fx.Graph()
    nodes = {name: made.placeholder(name) for name in "abc"}
    nodes["sum"] = made.call_function(operator.add, (nodes["a"], nodes["b"]))
    nodes["twice"] = made.call_function(operator.mul, (nodes["sum"], 2))
    nodes["beside"] = made.call_function(operator.sub, (nodes["c"], 1))
    made.output((nodes["twice"], nodes["beside"]))
    return fx.GraphModule({}, made), nodes


def test_ancestors_are_all_that_a_value_is_computed_from() -> None:
    _, nodes = graph()
    assert ancestors([nodes["twice"]]) == {nodes[name] for name in ("a", "b", "sum", "twice")}


def test_extracted_region_takes_only_what_it_needs() -> None:
    owner, nodes = graph()
    region = extract(owner, [nodes["twice"]])
    assert [node.target for node in region.graph.find_nodes(op="placeholder")] == ["a", "b"]
    assert region(torch.tensor(3), torch.tensor(4)) == (torch.tensor(14),)


def test_extracting_leaves_the_graph_as_it_was() -> None:
    owner, nodes = graph()
    before = str(owner.graph)
    extract(owner, [nodes["sum"], nodes["beside"]])
    assert str(owner.graph) == before
