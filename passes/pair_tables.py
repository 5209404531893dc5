"""Pair tables: what positions decide for each pair of them, computed on the device for the slots that there are.

A table of all pairs has the square of the context as its size. Most say less: who is near whom, or a number for each
distance. Those are computed from the positions of the rows and the numbers of the slots.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.masks import windows
from autoconvert.ir.editing import add_constant, emit
from autoconvert.ir.nodes import shape
from autoconvert.ir.provenance import WRITTEN
from autoconvert.passes.position_tables import narrow

aten = torch.ops.aten


def pairs_at(
    graph: fx.GraphModule, name: str, table: Tensor, axes: Sequence[int], positions: fx.Node, like: fx.Node
) -> fx.Node:
    """The rows at `positions` of a table, and of its columns those that there are slots for.

    `table` has the context as two axes, rows and columns: `axes` are theirs, from the end. Of these the result has the
    sequence and the slots.
    """
    order, rank, (row, column) = graph.graph, table.dim(), axes
    context = table.shape[row]
    rows = emit(order, aten._to_copy.default, _along(order, positions, row, rank, like), dtype=torch.int32, like=like)
    columns = _along(order, slot_numbers(graph, context, like), column, rank, like)
    pairs = table.movedim((row, column), (0, 1)).reshape(context, context, -1)
    if pairs.shape[-1] == 1 and (seen := _compared(order, pairs[..., 0], rows, columns, like)) is not None:
        return seen
    wide = [axis for axis in range(-rank, 0) if axis not in axes and table.shape[axis] > 1]
    if len(wide) <= 1 and (values := by_distance(pairs)) is not None:
        places = emit(
            order, aten.sub.Tensor, emit(order, aten.add.Tensor, columns, context - 1, like=like), rows, like=like
        )
        return looked_up(graph, name, values, places, wide, like)
    constant = add_constant(graph, name, narrow(table), like)
    flat = emit(order, aten.reshape.default, positions, [-1], like=like)
    chosen = emit(order, aten.index_select.default, constant, row, flat, like=like)
    return emit(order, aten.index_select.default, chosen, column, slot_numbers(graph, context, like), like=like)


def hint_outside_attention(node: fx.Node) -> str:
    """What to do about a value for each pair of positions where it cannot follow the history."""
    if WRITTEN in node.meta:
        return 'docs/patterns.md says in "An attention of its own" what an operation over the history may compute.'
    return "No pattern matched the attention around it."


def slot_numbers(graph: fx.GraphModule, context: int, like: fx.Node) -> fx.Node:
    """The numbers of all slots, int32 [slots], made once for a graph and at its beginning."""
    order = graph.graph
    if known := order.find_nodes(op="call_function", target=ops.slot_numbers):
        return known[0]
    with order.inserting_after(order.find_nodes(op="placeholder")[-1]):
        return emit(order, ops.slot_numbers, context, like=like)


def by_distance(pairs: Tensor) -> Tensor | None:
    """What a table [context, context, width] holds for each distance from row to column, [2 · context - 1, width].

    The first is that of the last row from the first column. None where something else than the distance decides.
    """
    if not torch.equal(pairs[1:, 1:], pairs[:-1, :-1]):
        return None
    return torch.cat([pairs[1:, 0].flip(0), pairs[0]])


def looked_up(
    graph: fx.GraphModule, name: str, values: Tensor, places: fx.Node, wide: Sequence[int], like: fx.Node
) -> fx.Node:
    """The rows of `values` [count, width] at `places`; the width is the axis `wide` of the result, where it has one."""
    order = graph.graph
    if not wide:
        constant = add_constant(graph, name, narrow(values[:, 0]), like)
        return emit(order, aten.index.Tensor, constant, [places], like=like)
    constant, rank = add_constant(graph, name, narrow(values), like), len(shape(places))
    flat = emit(order, aten.squeeze.dim, places, wide[0], like=like)
    found = emit(order, aten.index.Tensor, constant, [flat], like=like)
    axes = list(range(rank - 1))
    axes.insert(wide[0] % rank, rank - 1)
    return emit(order, aten.permute.default, found, axes, like=like)


def _along(graph: fx.Graph, numbers: fx.Node, axis: int, rank: int, like: fx.Node) -> fx.Node:
    """Numbers as an axis of a value of so many axes."""
    sizes = [1] * rank
    sizes[axis] = -1
    return emit(graph, aten.reshape.default, numbers, sizes, like=like)


def _compared(graph: fx.Graph, table: Tensor, rows: fx.Node, columns: fx.Node, like: fx.Node) -> fx.Node | None:
    """A table [context, context] of two numbers, one for columns in a causal mask, with a window or in chunks."""
    is_seen = table == table[0, 0]
    others = torch.unique(table[~is_seen])
    near = windows(is_seen) if len(others) == 1 else None
    if near is None or not (table.dtype == torch.bool or table.is_floating_point()):
        return None
    window, chunk_size = near
    seen = emit(graph, aten.le.Tensor, columns, rows, like=like)
    if window:
        reach = emit(graph, aten.add.Tensor, columns, window - 1, like=like)
        seen = emit(
            graph, aten.logical_and.default, seen, emit(graph, aten.ge.Tensor, reach, rows, like=like), like=like
        )
    if chunk_size:
        within = emit(graph, aten.remainder.Scalar, rows, chunk_size, like=like)
        first = emit(graph, aten.sub.Tensor, rows, within, like=like)
        near_by = emit(graph, aten.ge.Tensor, columns, first, like=like)
        seen = emit(graph, aten.logical_and.default, seen, near_by, like=like)
    if table.dtype == torch.bool:
        return seen if bool(table[0, 0]) else emit(graph, aten.logical_not.default, seen, like=like)
    numbers = emit(graph, aten.where.Scalar, seen, float(table[0, 0]), float(others[0]), like=like)
    return emit(graph, aten._to_copy.default, numbers, dtype=table.dtype, like=like)
