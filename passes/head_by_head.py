"""A value of positions evaluated one head at a time, where all of its heads together would not fit beside the rest."""

import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.op_traits import is_pointwise
from autoconvert.analysis.regions import ancestors, extract
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import arguments as arguments_of
from autoconvert.ir.nodes import concrete, is_symbolic, shape
from autoconvert.ir.program import Program

aten = torch.ops.aten


class HeadByHead:
    """Computes one head of `node`, whose axis of heads is told from those of the sequence by its fixed size.

    What is computed pointwise of values with heads needs of those the same head alone; what has no square of the length
    as its size is computed whole.
    """

    def __init__(self, program: Program, node: fx.Node, context: int) -> None:
        self._region = extract(program.graph, [node])
        (self._output,) = self._region.graph.output_node().all_input_nodes
        self._context = context
        self._roles: Mapping[str, Role] = program.roles
        self._axis, self.heads = axis_of_heads(node) or (-1, 1)

    @property
    def is_possible(self) -> bool:
        """Whether nothing that is computed whole has both heads and the square of the length as its size."""
        return self.heads > 1 and not any(map(self._is_large, ancestors(self._computed_whole())))

    def run(self, head: int, length: int, known: dict[fx.Node, Any]) -> Tensor:
        """The head, its axis of size one, for a text of `length`. `known` keeps what is the same for all heads."""

        def whole(node: fx.Node) -> Any:
            if node not in known:
                known[node] = self._computed(node, length, whole)
            return known[node]

        def part(node: fx.Node) -> Any:
            if not self._has_heads(node):
                return whole(node)
            if not self._is_split(node):
                return whole(node).narrow(self._axis, head, 1)
            arguments: list[Any] = list(fx.map_arg(arguments_of(node), part))
            if node.target is aten.expand.default:
                arguments[1] = [1 if at == len(arguments[1]) + self._axis else n for at, n in enumerate(arguments[1])]
            return node.target(*arguments, **fx.map_arg(node.kwargs, part))  # type: ignore[operator]

        with torch.no_grad():
            value: Tensor = part(self._output)
        return value

    def _computed(self, node: fx.Node, length: int, whole: Any) -> Any:
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self._region)
        if node.op != "placeholder":
            return node.target(*fx.map_arg(node.args, whole), **fx.map_arg(node.kwargs, whole))  # type: ignore[operator]
        if self._roles[str(node.target)] is Role.POSITIONS:
            return torch.arange(length)[None]
        return torch.zeros([concrete(size, length) for size in shape(node)], dtype=node.meta["val"].dtype)

    def _computed_whole(self) -> list[fx.Node]:
        found: list[fx.Node] = []
        pending, seen = [self._output], set[fx.Node]()
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if self._has_heads(node) and self._is_split(node):
                pending += node.all_input_nodes
            else:
                found.append(node)
        return found

    def _is_large(self, node: fx.Node) -> bool:
        return math.prod(concrete(size, self._context) for size in shape(node)) > self._context**2

    def _has_heads(self, node: fx.Node) -> bool:
        sizes = shape(node)
        return len(sizes) >= -self._axis and sizes[self._axis] == self.heads

    def _is_split(self, node: fx.Node) -> bool:
        return is_pointwise(node.target) or node.target is aten.expand.default


def axis_of_heads(node: fx.Node) -> tuple[int, int] | None:
    """The axis, counted from the end, and the size of what a value of pairs has beside its pairs; None for nothing."""
    sizes = shape(node)
    wide = [(axis - len(sizes), size) for axis, size in enumerate(sizes) if not is_symbolic(size) and size != 1]
    return (wide[0][0], int(wide[0][1])) if len(wide) == 1 else None
