"""Sizes that tokens decide: what is known of them by the operations that they come from.

How many entries of a mask are true is a number from none to all. The sizes of the pieces of an axis are no less than 0
and add up to that axis; whoever takes such pieces out of the graph must show that they do (passes/dense_rows).
"""

import math
from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils._sympy.symbol import SymT, symbol_is_type
from torch.utils._sympy.value_ranges import ValueRanges

from autoconvert.ir.nodes import arguments, concrete, first_operand, named_arguments, shape
from autoconvert.ir.sizes import expression_of

aten = torch.ops.aten

_SPLITS: dict[Any, str] = {aten.split_with_sizes.default: "split_sizes", aten.split.sizes: "split_size"}


def bounds(graph: fx.Graph, longest: int) -> dict[Any, ValueRanges[Any]]:
    """Between which numbers each size is that tokens decide, in texts up to `longest`."""
    found: dict[Any, ValueRanges[Any]] = {}
    for node in graph.nodes:
        for mask, count in _masks(node):
            if _is_decided(count):
                entries = math.prod(concrete(size, longest) for size in shape(mask))
                found[count.node.expr] = ValueRanges(0, entries)
        pieces, whole = _pieces(node)
        for piece in pieces:
            # An axis of pieces that were put together is another sum of them.
            if piece.node.expr not in found:
                found[piece.node.expr] = ValueRanges(0, concrete(whole, longest))
    return found


def known_sums(graph: fx.Graph) -> dict[Any, Any]:
    """A piece of each axis by the axis and the other pieces, as it is wherever the graph can be computed."""
    found: dict[Any, Any] = {}
    for node in graph.nodes:
        pieces, whole = _pieces(node)
        if pieces and pieces[-1].node.expr not in found:
            last, sizes = pieces[-1].node.expr, [expression_of(piece) for piece in _numbers(node)]
            found[last] = sympy.expand(expression_of(whole) - sum(sizes) + last)
    return found


def with_sums(expression: Any, sums: dict[Any, Any]) -> Any:
    """What an expression says of the sizes of pieces, once they add up."""
    if sums.keys().isdisjoint(expression.free_symbols):
        return expression
    return expression.subs(sums).replace(lambda part: part.is_Add or part.is_Mul, sympy.expand)


def _masks(node: fx.Node) -> Iterator[tuple[fx.Node, Any]]:
    """Each mask whose true entries a node counts, and their number."""
    if node.target in (aten.where.default, aten.nonzero_numpy.default):
        yield first_operand(node), node.meta["val"][0].shape[0]
    elif node.target is aten.nonzero.default:
        yield first_operand(node), shape(node)[0]
    elif node.target is aten.index.Tensor:
        given = [(at, index) for at, index in enumerate(arguments(node)[1]) if index is not None]
        if len(given) == 1 and given[0][1].meta["val"].dtype == torch.bool:
            at, mask = given[0]
            yield mask, shape(node)[at]


def _pieces(node: fx.Node) -> tuple[list[torch.SymInt], Any]:
    """The sizes that tokens decide of the pieces that a node makes of an axis, and the axis's own."""
    if node.target not in _SPLITS:
        return [], 0
    source = first_operand(node)
    return [n for n in _numbers(node) if _is_decided(n)], shape(source)[named_arguments(node)["dim"]]


def _is_decided(size: Any) -> bool:
    expression = expression_of(size)
    return isinstance(expression, sympy.Symbol) and symbol_is_type(expression, SymT.UNBACKED_INT)


def _numbers(node: fx.Node) -> list[Any]:
    sizes = named_arguments(node)[_SPLITS[node.target]]
    return [size.meta["val"] if isinstance(size, fx.Node) else size for size in sizes]
