"""Specialise: the stateful graph at one chunk length, as the runtime calls it by signature."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import finish, inline, traced
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.nodes import concrete
from autoconvert.ir.program import Program

aten = torch.ops.aten

LOGITS = "logits"


def specialize_shapes(program: Program, length: int) -> Program:
    """The program for chunks of exactly `length` positions; every shape in it is a number."""
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    with FakeTensorMode(), torch.no_grad():
        for node in program.graph.graph.nodes:
            if node.op == "call_module":
                copies[node] = _unrolled(graph, node, program.graph.get_submodule(str(node.target)), copies)
            else:
                copies[node] = _copy(graph, node, copies, length)
    return program.with_graph(finish(graph_module(program.graph, graph)))


def prefill(program: Program, length: int) -> Program:
    """A chunk of a prompt: fills the states, gives no logits."""
    special = specialize_shapes(program, length)
    output = next(iter(reversed(special.graph.graph.nodes)))
    output.args = ({name: node for name, node in output.args[0].items() if name != LOGITS},)
    return special.with_graph(finish(special.graph))


def decode(program: Program) -> Program:
    """One token: gives the logits [1, 1, vocabulary] that follow it, and the states."""
    return specialize_shapes(program, 1)


def _unrolled(graph: fx.Graph, call: fx.Node, recurrence: nn.Module, copies: dict[fx.Node, Any]) -> Any:
    """A recurrence over so many positions, as operations; gives a node for each of its results."""
    arguments = {f"value_{index}": copies[node] for index, node in enumerate(call.args)}  # type: ignore[index]
    values = {name: node.meta["val"] for name, node in arguments.items()}
    body = traced(lambda **bound: recurrence(*bound.values()), values)
    return inline(graph, body.graph, arguments, like=call)


def _copy(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, Any], length: int) -> Any:
    value = node.meta.get("val")
    if node.target is operator.getitem and isinstance(copies[node.args[0]], tuple | list):  # type: ignore[index]
        return copies[node.args[0]][node.args[1]]  # type: ignore[index]
    if isinstance(value, torch.SymInt):
        return concrete(value, length)
    copy = graph.node_copy(node, lambda n: copies[n])
    copy.meta = dict(node.meta)
    if node.op == "call_function":
        args, kwargs = fx.map_arg((copy.args, copy.kwargs), lambda n: n.meta["val"])
        copy.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
    elif isinstance(value, Tensor):
        sizes = [concrete(size, length) for size in value.shape]
        copy.meta["val"] = torch.empty(sizes, dtype=value.dtype)
    return copy
