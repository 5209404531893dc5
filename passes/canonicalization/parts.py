"""Parts of tensors: splits, slices, selections, stacks and concatenations."""

import operator
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from autoconvert.analysis.constants import constant_value
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, named_arguments, same_shape, shape
from autoconvert.rewrite.rule import rule

aten = torch.ops.aten

TO_THE_END = 2**63 - 1

_SPLITS = {
    aten.split.Tensor,
    aten.split.sizes,
    aten.chunk.default,
    aten.split_with_sizes.default,
    aten.unsafe_chunk.default,
    aten.unsafe_split.Tensor,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
}


def axis_of(node: fx.Node) -> int:
    """The axis that an operation works along."""
    return int(named_arguments(node)["dim"])


def slice_of(node: fx.Node) -> tuple[fx.Node, int, Any, Any, int]:
    """Source, axis from the end, start, end and step of a slice or of what is written into one."""
    given = named_arguments(node)
    source, axis, start, end = given["self"], given["dim"], given["start"], given["end"]
    axis = axis - len(shape(source)) if axis >= 0 else axis
    return source, axis, 0 if start is None else start, TO_THE_END if end is None else end, given["step"]


@rule(operator.getitem)
def _part_is_slice(node: fx.Node) -> fx.Node | None:
    """A part of `chunk` or `split` is a slice, one of `unbind` a selection."""
    whole, index = arguments(node)
    if whole.target is aten.unbind.int:
        return emit(node.graph, aten.select.int, first_operand(whole), axis_of(whole), index, like=node)
    if whole.target not in _SPLITS:
        return None
    source, axis = first_operand(whole), axis_of(whole)
    parts = [part.shape[axis] for part in whole.meta["val"]]
    if any(map(is_symbolic, parts)):
        return None
    start = sum(parts[:index])
    return emit(node.graph, aten.slice.Tensor, source, axis, start, start + parts[index], like=node)


@rule(aten.narrow.default)
def _first_entries_are_slice(node: fx.Node) -> fx.Node | None:
    source, axis, start, count = arguments(node)
    return emit(node.graph, aten.slice.Tensor, source, axis, 0, count, like=node) if start == 0 else None


@rule(aten.slice.Tensor)
def _slice_names_its_start(node: fx.Node) -> fx.Node | None:
    """A slice names its start counted from the front, and its end only where it stops early."""
    source, axis, start, end, step = slice_of(node)
    size = shape(source)[axis]
    if not is_symbolic(size) and isinstance(start, int) and isinstance(end, int):
        entries = range(int(size))[start:end:step]
        start = entries.start
        end = TO_THE_END if entries == range(int(size))[start::step] else entries.stop
    wanted = (source, axis, start, end, step)[: 5 if step != 1 else 4 if end != TO_THE_END else 3]
    if arguments(node) == wanted and not node.kwargs:
        return None
    return emit(node.graph, aten.slice.Tensor, *wanted, like=node)


@rule(aten.select.int)
def _selection_of_split_axis_is_slice(node: fx.Node) -> fx.Node | None:
    """With the last axis as pairs, the first of each pair are every second entry; as two rows, the first half."""
    if first_operand(node).target is not aten.reshape.default:
        return None
    split, axis, index = arguments(node)
    *leading, outer, inner = shape(split)
    if axis < -2 or not all(isinstance(number, int) for number in (index, outer, inner)):
        return None
    sizes = [-1 if is_symbolic(size) else size for size in (*leading, outer * inner)]
    if sizes.count(-1) > 1:
        return None
    whole = emit(node.graph, aten.reshape.default, first_operand(split), sizes, like=node)
    if axis == -1:
        return emit(node.graph, aten.slice.Tensor, whole, -1, index % int(inner), TO_THE_END, inner, like=node)
    start = index % int(outer) * inner
    return emit(node.graph, aten.slice.Tensor, whole, -1, start, start + inner, like=node)


@rule(aten.stack.default)
def _stack_is_concatenation(node: fx.Node) -> fx.Node | None:
    parts, axis = arguments(node)[0], axis_of(node)
    wide = [emit(node.graph, aten.unsqueeze.default, part, axis, like=node) for part in parts]
    return emit(node.graph, aten.cat.default, wide, axis, like=node)


@rule(aten.cat.default)
def _concatenation_of_something(node: fx.Node) -> fx.Node | None:
    """What has no entries adds none to a concatenation; one part alone is the whole."""
    parts, axis = arguments(node)[0], axis_of(node)
    some = [part for part in parts if not _has_no_entries(part, axis)]
    dtype = node.meta["val"].dtype
    if not some or any(part.meta["val"].dtype != dtype for part in some):
        return None
    if len(some) == 1 and same_shape(node, some[0]):
        return some[0]
    return emit(node.graph, aten.cat.default, some, axis, like=node) if len(some) < len(parts) else None


def _has_no_entries(part: fx.Node, axis: int) -> bool:
    """Also the empty vector, which `cat` takes beside any shape."""
    # A size that tokens decide cannot be compared.
    sizes = [None if is_symbolic(size) else size for size in shape(part)]
    return sizes == [0] or sizes[axis] == 0


@rule(aten.index.Tensor)
def _constant_indices_are_slice(node: fx.Node) -> fx.Node | None:
    """x[:, indices] with a known vector is a slice where its steps are equal, a roll where it goes round once."""
    source, indices = arguments(node)
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or len(shape(given[0][1])) != 1:
        return None
    axis, index = given[0]
    values = constant_value(index)
    if values is None or not len(values) or values.dtype != torch.int64 or is_symbolic(shape(source)[axis]):
        return None
    size = int(shape(source)[axis])
    places = [place % size for place in values.tolist()]
    steps = {b - a for a, b in pairwise(places)} or {1}
    if len(steps) == 1 and min(steps) > 0:
        step = min(steps)
        return emit(node.graph, aten.slice.Tensor, source, axis, places[0], places[-1] + 1, step, like=node)
    if places == [place % size for place in range(places[0], places[0] + size)]:
        return emit(node.graph, aten.roll.default, source, [size - places[0]], [axis - len(shape(source))], like=node)
    if places == values.tolist():
        return emit(node.graph, aten.index_select.default, source, axis, index, like=node)
    return None


RULES = (
    _part_is_slice,
    _first_entries_are_slice,
    _slice_names_its_start,
    _selection_of_split_axis_is_slice,
    _stack_is_concatenation,
    _concatenation_of_something,
    _constant_indices_are_slice,
)
