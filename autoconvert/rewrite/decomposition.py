"""Decomposition: operations of a graph are replaced by their bodies."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch._ops import OpOverload

from autoconvert.ir.editing import inline, replace_by_results, traced
from autoconvert.ir.nodes import overload, type_key
from autoconvert.ops.semantic import Body


def decompose_nodes(graph: fx.Graph, bodies: Mapping[OpOverload, Body]) -> int:
    """Replaces every node of an operation in `bodies` by its body, traced at the node's shapes; gives how many."""
    known: dict[str, fx.GraphModule] = {}
    nodes = [node for node in graph.nodes if node.target in bodies]
    for node in nodes:
        body = traced_at(node, bodies[node.target], known)
        with graph.inserting_before(node):
            result = inline(graph, body.graph, given_arguments(node), like=node)
        replace_by_results(node, result)
    return len(nodes)


def given_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operation that are given, by their names in the schema."""
    names = (argument.name for argument in overload(node)._schema.arguments)
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def traced_at(node: fx.Node, body: Body, known: dict[str, fx.GraphModule]) -> fx.GraphModule:
    """The graph of `body` as it is called at `node`, its tensors by name; that of equal types is in `known`."""
    values = {name: v.meta["val"] if isinstance(v, fx.Node) else v for name, v in given_arguments(node).items()}
    key = f"{node.target} {[(name, type_key(value)) for name, value in values.items()]}"
    if key not in known:
        fixed = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        known[key] = traced(lambda **bound: body(**bound, **fixed), tensors)
    return known[key]
