"""Specialise: the stateful graph at one chunk length, as the runtime calls it by signature."""

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.program import Program
from autoconvert.rewriting import concrete, finish

aten = torch.ops.aten

LOGITS = "logits"


def specialise(program: Program, length: int) -> Program:
    """The program for chunks of exactly `length` positions; every shape in it is a number."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node | int] = {}
    with FakeTensorMode() as mode, torch.no_grad():
        for node in program.graph.graph.nodes:
            copies[node] = _copy(graph, node, copies, length, mode)
    return program.with_graph(finish(fx.GraphModule(program.graph, graph)))


def prefill(program: Program, length: int) -> Program:
    """A chunk of a prompt: fills the states, gives no logits."""
    special = specialise(program, length)
    output = next(iter(reversed(special.graph.graph.nodes)))
    output.args = ({name: node for name, node in output.args[0].items() if name != LOGITS},)
    return special.with_graph(finish(special.graph))


def decode(program: Program) -> Program:
    """One token: gives the logits [1, 1, vocabulary] that follow it, and the states."""
    return specialise(program, 1)


def _copy(
    graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node | int], length: int, mode: FakeTensorMode
) -> fx.Node | int:
    value = node.meta.get("val")
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
