"""A scan along one axis of a value: the axis to the front, everything else in one row, and back."""

import math
import operator

import torch
from torch import fx, nn

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import shape

aten = torch.ops.aten


def rows_of(x: fx.Node, axis: int, like: fx.Node) -> fx.Node:
    """`x` as [positions, width], its axis `axis` from the end the first one; at the graph's insertion point."""
    moved = emit(x.graph, aten.permute.default, x, _to_front(x, axis), like=like)
    return emit(x.graph, aten.reshape.default, moved, [-1, width_of(x, axis)], like=like)


def width_of(x: fx.Node, axis: int) -> int:
    """How many numbers of `x` belong to one position along `axis`."""
    return math.prod(int(size) for size in _others(x, axis))


def call_scan(owner: fx.GraphModule, name: str, scan: nn.Module, rows: fx.Node, count: int) -> list[fx.Node]:
    """The `count` results of a new scan over `rows`, each of the type of `rows`; at the graph's insertion point."""
    owner.add_submodule(name, scan)
    call = owner.graph.call_module(name, (rows,))
    call.meta = {**rows.meta, "val": (rows.meta["val"],) * count}
    return [emit(owner.graph, operator.getitem, call, index, like=rows) for index in range(count)]


def from_rows(rows: fx.Node, x: fx.Node, axis: int, like: fx.Node) -> fx.Node:
    """The inverse of `rows_of`, to the shape of `x`."""
    first = _to_front(x, axis)
    whole = emit(x.graph, aten.reshape.default, rows, [-1, *_others(x, axis)], like=like)
    return emit(x.graph, aten.permute.default, whole, [first.index(a) for a in range(-len(first), 0)], like=like)


def _to_front(x: fx.Node, axis: int) -> list[int]:
    return [axis, *(other for other in range(-len(shape(x)), 0) if other != axis)]


def _others(x: fx.Node, axis: int) -> list[int | torch.SymInt]:
    return [size for index, size in enumerate(shape(x)) if index - len(shape(x)) != axis]
