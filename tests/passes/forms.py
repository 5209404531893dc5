"""What a function of activations and a parameter is canonicalized to, checked to give its numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from autoconvert.check.rule import RuleCheck
from autoconvert.ir.interface import Port, Role
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.tracing.exported import export, program_of

Function = Callable[..., Tensor]

WIDTH = 8
LENGTHS = (5, 9)


class Call(nn.Module):
    """A function of `x` [1, s, 8] and a square parameter."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.matrix = function, nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.matrix)


def canonicalized(function: Function) -> tuple[fx.GraphModule, Call]:
    """The canonical graph of symbolic length, checked to give the numbers of the function at two lengths."""
    module = Call(function).eval()
    exported = export(module, (torch.randn(1, LENGTHS[0], WIDTH),), ({1: Dim("s", min=2, max=64)},))
    program = program_of(exported, [Port("x", Role.HIDDEN, torch.float32, (1, "s", WIDTH))], [("result", Role.HIDDEN)])
    graph = canonicalize(program.graph, program.weights, RuleCheck())
    for length in LENGTHS:
        x = torch.randn(1, length, WIDTH)
        inputs = [
            module.matrix if node.target in program.weights else x for node in graph.graph.find_nodes(op="placeholder")
        ]
        with torch.no_grad():
            torch.testing.assert_close(graph(*inputs)["result"], function(x, module.matrix), rtol=1e-5, atol=1e-6)
    return graph, module


def operations(function: Function) -> list[Any]:
    return [node.target for node in canonicalized(function)[0].graph.nodes if node.op == "call_function"]


def form(function: Function) -> str:
    """The graph as text that depends on its structure only, not on the order in which it was written."""
    lines: dict[fx.Node, str] = {}

    def visit(node: fx.Node) -> str:
        if node not in lines:
            args = fx.map_arg((node.args, node.kwargs), visit)
            lines[node] = f"%{len(lines)}"
            text.append(f"{lines[node]} = {node.op} {node.target} {args}")
        return lines[node]

    text: list[str] = []
    visit(canonicalized(function)[0].graph.output_node())
    return "\n".join(text)
