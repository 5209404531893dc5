"""Columns apart: what stands beside the positions of a text, as sinks or memory do, is computed beside them.

Keys that are the text's and a few more make columns that are no positions. Whatever works column by column is done for
each part of them alone. A softmax over all is one over each part, which gets its share of the whole,

    softmax([x, y]) = [softmax(x) · exp(L(x) - L), softmax(y) · exp(L(y) - L)]

with L(x) = log Σ exp(x) of the columns of x and L that of all, and a product that sums over the columns is the sum of
the parts' products.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any

import torch
from sympy import Symbol
from torch import Tensor, fx

from autoconvert.analysis.axis_rules import argument, axes, axis_argument
from autoconvert.analysis.op_traits import is_pointwise
from autoconvert.analysis.sequence_axis import is_entry_by_entry
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, shape

aten = torch.ops.aten

_MOVED = {
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
    aten.clone.default,
    aten.reshape.default,
}
# What reduces columns, and what then joins the parts.
_REDUCTIONS: dict[Any, Any] = {aten.sum.dim_IntList: aten.add.Tensor, aten.amax.default: aten.maximum.default}


class _Joined(Exception):
    """An operation that does not treat columns one by one."""


@dataclass(frozen=True)
class _Parts:
    """The parts that lie behind each other along `axis`, from the end; one of them is as long as the text."""

    nodes: tuple[fx.Node, ...]
    axis: int

    @property
    def sizes(self) -> list[Any]:
        return [shape(node)[self.axis] for node in self.nodes]


def columns_apart(graph: fx.Graph, symbol: Symbol) -> bool:
    """Computes parts of columns alone, wherever they meet again or the rest is cut away; says whether any did."""
    parts: dict[fx.Node, _Parts] = {}
    found = False
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            continue
        with graph.inserting_before(node):
            try:
                result = _joined(node, symbol) or _apart(node, parts, symbol)
            except _Joined:
                continue
        if isinstance(result, _Parts):
            parts[node] = result
        elif result is not None:
            node.replace_all_uses_with(result)
            found = True
    if parts:
        graph.eliminate_dead_code()
    return found


def _joined(node: fx.Node, symbol: Symbol) -> _Parts | None:
    """Parts that are put together here: the text's, and others of a fixed length."""
    if node.target is not aten.cat.default:
        return None
    nodes, axis = arguments(node)[0], axis_argument(node)
    texts = [each for each in nodes if is_symbolic(shape(each)[axis])]
    is_text = len(texts) == 1 and len(nodes) > 1 and str(shape(texts[0])[axis]) == str(symbol)
    return _Parts(tuple(nodes), axis) if is_text else None


def _apart(node: fx.Node, parts: dict[fx.Node, _Parts], symbol: Symbol) -> _Parts | fx.Node | None:
    """What `node` makes of parts: parts again, or a value that has none."""
    known = [parts[each] for each in node.all_input_nodes if each in parts]
    if not known:
        return None
    if node.target is aten.matmul.default:
        return _product(node, parts)
    one = known[0]
    if any(list(map(str, each.sizes)) != list(map(str, one.sizes)) for each in known):
        raise _Joined
    if node.target is aten.softmax.int and axis_argument(node) == one.axis:
        return _shares(node, one)
    if node.target in _REDUCTIONS and _is_over(node, one.axis):
        return _reduced(node, one)
    if node.target is aten.slice.Tensor and axis_argument(node) == one.axis:
        return _cut(node, one)
    if is_pointwise(node.target):
        return _each(node, parts, one.axis, one)
    if node.target in _MOVED and _keeps_columns(node, symbol):
        found = [axis for axis in range(-len(shape(node)), 0) if _is_joined(node, axis, one)]
        if len(found) == 1:
            return _each(node, parts, found[0], one)
    raise _Joined


def _is_over(reduction: fx.Node, axis: int) -> bool:
    """Whether it is along this axis alone."""
    over = argument(reduction, "dim")
    return len(over) == 1 and over[0] % -len(shape(first_operand(reduction))) == axis


def _keeps_columns(node: fx.Node, symbol: Symbol) -> bool:
    """Whether columns, or the text and what is beside it, stay what they are."""
    if node.target is not aten.reshape.default:
        return True
    if len(axes(node, symbol)) == 1:
        return is_entry_by_entry(node, symbol)
    return list(map(str, shape(node)[-2:])) == list(map(str, shape(first_operand(node))[-2:]))


def _is_joined(node: fx.Node, axis: int, parts: _Parts) -> bool:
    return axis >= -len(shape(node)) and str(shape(node)[axis]) == str(sum(parts.sizes))


def _each(node: fx.Node, parts: dict[fx.Node, _Parts], axis: int, like: _Parts) -> _Parts:
    """The same operation for each part; of what is as wide as all of them, the columns of that part."""

    def operand(index: int, each: fx.Node) -> Any:
        if each in parts:
            return parts[each].nodes[index]
        if not isinstance(each.meta["val"], Tensor):
            is_width = str(each.meta["val"]) == str(sum(like.sizes))
            return _size(like.nodes[index], like.axis, node) if is_width else each
        return _columns(each, axis, like, index, node) if _is_joined(each, axis, like) else each

    made = []
    for index, size in enumerate(like.sizes):
        args, kwargs = fx.map_arg((node.args, node.kwargs), functools.partial(operand, index))
        made.append(_like(node, *args, **kwargs))
        expected = [size if at - len(shape(node)) == axis else own for at, own in enumerate(shape(node))]
        if list(map(str, shape(made[-1]))) != list(map(str, expected)):
            raise _Joined
    return _Parts(tuple(made), axis)


def _size(part: fx.Node, axis: int, like: fx.Node) -> Any:
    size = shape(part)[axis]
    return emit(like.graph, aten.sym_size.int, part, axis, like=like) if is_symbolic(size) else size


def _columns(node: fx.Node, axis: int, parts: _Parts, index: int, like: fx.Node) -> fx.Node:
    """The columns of one part, counted from the end of the axis that is nearer than the text."""
    before, behind = parts.sizes[:index], parts.sizes[index + 1 :]
    start = -sum(parts.sizes[index:]) if any(map(is_symbolic, before)) else sum(before)
    end = sum(parts.sizes[: index + 1]) if any(map(is_symbolic, behind)) else -sum(behind) or sys.maxsize
    return emit(like.graph, aten.slice.Tensor, node, axis, start, end, like=like)


def _cut(node: fx.Node, parts: _Parts) -> _Parts | fx.Node:
    """Whole parts, without those before and behind."""
    start = argument(node, "start") or 0
    for first in range(len(parts.nodes)):
        for last in range(first + 1, len(parts.nodes) + 1):
            size = str(sum(parts.sizes[first:last]))
            if str(sum(parts.sizes[:first])) == str(start) and size == str(shape(node)[parts.axis]):
                kept = parts.nodes[first:last]
                return kept[0] if len(kept) == 1 else _Parts(kept, parts.axis)
    raise _Joined


def _shares(softmax: fx.Node, parts: _Parts) -> _Parts:
    """A softmax over each part, times the part's share of the whole."""
    graph, axis = softmax.graph, parts.axis
    if argument(softmax, "dtype") is not None:
        raise _Joined
    totals = [emit(graph, aten.logsumexp.default, each, [axis], True, like=softmax) for each in parts.nodes]
    side_by_side = emit(graph, aten.cat.default, totals, axis, like=softmax)
    whole = emit(graph, aten.logsumexp.default, side_by_side, [axis], True, like=softmax)
    made = []
    for each, total in zip(parts.nodes, totals, strict=True):
        alone = emit(graph, aten.softmax.int, each, axis, like=softmax)
        share = emit(graph, aten.exp.default, emit(graph, aten.sub.Tensor, total, whole, like=softmax), like=softmax)
        made.append(emit(graph, aten.mul.Tensor, alone, share, like=softmax))
    return _Parts(tuple(made), axis)


def _reduced(node: fx.Node, parts: _Parts) -> fx.Node:
    join = _REDUCTIONS[node.target]
    reduced = [_like(node, each, *arguments(node)[1:]) for each in parts.nodes]
    return functools.reduce(lambda a, b: emit(node.graph, join, a, b, like=node), reduced)


def _like(node: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
    """The same operation of other arguments."""
    return emit(node.graph, node.target, *args, like=node, **kwargs)  # type: ignore[arg-type]


def _product(node: fx.Node, parts: dict[fx.Node, _Parts]) -> _Parts | fx.Node:
    """Of parts in the result's columns or rows, parts; where columns are summed over, a value without any."""
    left, right = arguments(node)[:2]
    if left in parts and right in parts:
        over, by = parts[left], parts[right]
        if (over.axis, by.axis) != (-1, -2) or list(map(str, over.sizes)) != list(map(str, by.sizes)):
            raise _Joined
        pairs = zip(over.nodes, by.nodes, strict=True)
        products = [emit(node.graph, aten.matmul.default, one, other, like=node) for one, other in pairs]
        return functools.reduce(lambda a, b: emit(node.graph, aten.add.Tensor, a, b, like=node), products)
    held, axis = (parts[right], -1) if right in parts else (parts[left], -2)
    if held.axis != axis:
        raise _Joined
    return _each(node, parts, axis, held)
