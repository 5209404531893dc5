"""Parts of tensors: splits, slices, concatenations, and writes into a part."""

import operator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.rewriting import arguments, emit, first_input, is_symbolic, same_shape, shape

aten = torch.ops.aten

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
_TO_THE_END = 2**63 - 1


def _part_is_slice(node: fx.Node) -> fx.Node | None:
    """A part of `chunk` or `split` is a slice, one of `unbind` a selection."""
    if node.target is not operator.getitem or not isinstance(arguments(node)[0], fx.Node):
        return None
    whole, index = arguments(node)
    if whole.target is aten.unbind.int:
        return emit(node.graph, aten.select.int, first_input(whole), _axis(whole, 1), index, like=node)
    if whole.target not in _SPLITS:
        return None
    source, axis = first_input(whole), _axis(whole, 2)
    parts = [part.shape[axis] for part in whole.meta["val"]]
    if any(map(is_symbolic, parts)):
        return None
    start = sum(parts[:index])
    end = start + parts[index] if index + 1 < len(parts) else None
    return emit(node.graph, aten.slice.Tensor, source, axis, start, *([end] if end else []), like=node)


def _selection_of_split_axis_is_slice(node: fx.Node) -> fx.Node | None:
    """With the last axis as pairs, the first of each pair are every second entry; as two rows, the first half."""
    if node.target is not aten.select.int or first_input(node).target is not aten.reshape.default:
        return None
    split, axis, index = arguments(node)
    *leading, outer, inner = shape(split)
    if axis < -2 or not all(isinstance(number, int) for number in (index, outer, inner)):
        return None
    sizes = [-1 if is_symbolic(size) else size for size in (*leading, outer * inner)]
    if sizes.count(-1) > 1:
        return None
    whole = emit(node.graph, aten.reshape.default, first_input(split), sizes, like=node)
    if axis == -1:
        return emit(node.graph, aten.slice.Tensor, whole, -1, index % int(inner), _TO_THE_END, inner, like=node)
    start = index % int(outer) * inner
    return emit(node.graph, aten.slice.Tensor, whole, -1, start, start + inner, like=node)


def _axis(node: fx.Node, position: int) -> int:
    given: int = arguments(node)[position] if len(arguments(node)) > position else node.kwargs.get("dim", 0)  # type: ignore[assignment]
    return given


def _slice_names_its_start(node: fx.Node) -> fx.Node | None:
    """A slice names its start counted from the front, and its end only where it stops early."""
    if node.target is not aten.slice.Tensor or len(arguments(node)) < 3 or not isinstance(arguments(node)[2], int):
        return None
    source, axis, start, *rest = arguments(node)
    size = shape(source)[axis]
    if is_symbolic(size):
        return None
    end, step = (*rest, _TO_THE_END, 1)[:2] if len(rest) != 1 else (rest[0], 1)
    if not isinstance(end, int):
        return None
    entries = range(int(size))[start:end:step]
    to_the_end = entries == range(int(size))[start::step]
    wanted = [entries.start, *([] if to_the_end and step == 1 else [_TO_THE_END if to_the_end else entries.stop])]
    wanted += [] if step == 1 else [step]
    return None if wanted == [start, *rest] else emit(node.graph, aten.slice.Tensor, source, axis, *wanted, like=node)


def _stack_is_concatenation(node: fx.Node) -> fx.Node | None:
    if node.target is not aten.stack.default:
        return None
    parts, axis = arguments(node)[0], _axis(node, 1)
    wide = [emit(node.graph, aten.unsqueeze.default, part, axis, like=node) for part in parts]
    return emit(node.graph, aten.cat.default, wide, axis, like=node)


def _concatenation_of_something(node: fx.Node) -> fx.Node | None:
    """What has no entries adds none to a concatenation; one part alone is the whole."""
    if node.target is not aten.cat.default:
        return None
    parts, axis = arguments(node)[0], _axis(node, 1)
    some = [part for part in parts if not _has_no_entries(part, axis)]
    dtype = node.meta["val"].dtype
    if not some or any(part.meta["val"].dtype != dtype for part in some):
        return None
    if len(some) == 1 and same_shape(node, some[0]):
        return some[0]
    return emit(node.graph, aten.cat.default, some, axis, like=node) if len(some) < len(parts) else None


def _has_no_entries(part: fx.Node, axis: int) -> bool:
    """Also the empty vector, which `cat` takes beside any shape."""
    sizes = shape(part)
    return sizes == (0,) or (not is_symbolic(sizes[axis]) and sizes[axis] == 0)


def _copy_is_value(node: fx.Node) -> fx.Node | None:
    """What is written over a whole tensor: nothing of the old value stays."""
    if node.target is aten.fill.Scalar:
        return emit(node.graph, aten.full_like.default, *arguments(node), like=node)
    if node.target not in (aten.copy.default, aten.fill.Tensor):
        return None
    old, new = arguments(node)[:2]
    if new.meta["val"].dtype != old.meta["val"].dtype:
        new = emit(node.graph, aten._to_copy.default, new, dtype=old.meta["val"].dtype, like=node)
    if same_shape(node, new):
        return new
    sizes, before = shape(node), shape(new)
    lacking = len(sizes) - len(before)
    if any(is_symbolic(size) for size in sizes[:lacking]):
        return emit(node.graph, aten.expand_as.default, new, old, like=node)
    grown = [-1 if str(a) == str(b) else a for a, b in zip(sizes, (None,) * lacking + before, strict=True)]
    if any(map(is_symbolic, grown)):
        return emit(node.graph, aten.expand_as.default, new, old, like=node)
    return emit(node.graph, aten.expand.default, new, grown, like=node)


def _write_is_concatenation(node: fx.Node) -> fx.Node | None:
    """A tensor with one part written anew is what lies before that part, the part, and what lies behind.

    Of a buffer that was made of such parts, those are taken that lie there, so that one written from end to end
    is gone.
    """
    if node.target is aten.select_scatter.default:
        base, part, axis, index = arguments(node)
        size = shape(base)[axis]
        if is_symbolic(size) or not isinstance(index, int):
            return None
        start, end = index % size, index % size + 1
        _forward_reads(node, part)
        part = emit(node.graph, aten.unsqueeze.default, part, axis, like=node)
    elif node.target is aten.slice_scatter.default:
        base, part, *_ = arguments(node)
        if same_shape(base, part):
            return part
        range_ = _written_range(node)
        if range_ is None:
            return None
        axis, start, end = range_
        size = shape(base)[axis]
        _forward_reads(node, part)
    else:
        return None
    parts = [*_entries(node, base, axis, 0, start), part, *_entries(node, base, axis, end, size)]
    return emit(node.graph, aten.cat.default, parts, axis, like=node)


def _written_range(node: fx.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a slice or of a write into one; None where the length of the sequence decides."""
    is_write = node.target is aten.slice_scatter.default
    names = ("dim", "start", "end", "step")
    positional = dict(zip(names, arguments(node)[2 if is_write else 1 :], strict=False))
    given: dict[str, Any] = {"dim": 0, "start": 0, "end": _TO_THE_END, "step": 1} | positional | dict(node.kwargs)
    base = first_input(node)
    axis = given["dim"] - len(shape(base)) if given["dim"] >= 0 else given["dim"]
    size = shape(base)[axis]
    start, end = given["start"] or 0, _TO_THE_END if given["end"] is None else given["end"]
    if given["step"] != 1 or is_symbolic(size) or not isinstance(start, int) or not isinstance(end, int):
        return None
    start, end, _ = slice(start, end).indices(int(size))
    return (axis, start, end) if start < end else None


def _forward_reads(node: fx.Node, part: fx.Node) -> None:
    """Who reads the part that was just written reads what was written."""
    for user in list(node.users):
        if _is_read_of(user, node) and same_shape(user, part):
            user.replace_all_uses_with(part)


def _is_read_of(user: fx.Node, write: fx.Node) -> bool:
    if write.target is aten.slice_scatter.default:
        return user.target is aten.slice.Tensor and _written_range(user) == _written_range(write)
    if user.target is not aten.select.int or first_input(user) is not write:
        return False
    rank, (axis, index) = len(shape(write)), arguments(user)[1:]
    return (axis % rank - rank, index) == arguments(write)[2:]


def _entries(node: fx.Node, base: fx.Node, axis: int, start: Any, end: Any) -> list[fx.Node]:
    """The entries [start, end) of `axis` as parts; those of a concatenation are its operands where they can be."""
    if start >= end:
        return []
    if base.target is aten.cat.default and _axis(base, 1) == axis:
        found: list[fx.Node] = []
        first: Any = 0
        for operand in arguments(base)[0]:
            last = first + shape(operand)[axis]
            found += _entries(node, operand, axis, max(start, first) - first, min(end, last) - first)
            first = last
        return found
    if (start, end) == (0, shape(base)[axis]):
        return [base]
    return [emit(node.graph, aten.slice.Tensor, base, axis, start, end, like=node)]


def _constant_indices_are_slice(node: fx.Node) -> fx.Node | None:
    """x[:, indices] with a vector of the module is a slice where its steps are equal, else `index_select`."""
    if node.target is not aten.index.Tensor:
        return None
    source, indices = arguments(node)
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or len(shape(given[0][1])) != 1:
        return None
    axis, index = given[0]
    values = _constant(index)
    if values is None or not len(values) or values.dtype != torch.int64 or is_symbolic(shape(source)[axis]):
        return None
    size = shape(source)[axis]
    places = [place % size for place in values.tolist()]
    steps = {b - a for a, b in pairwise(places)} or {1}
    if len(steps) == 1 and min(steps) > 0:
        step = min(steps)
        return emit(node.graph, aten.slice.Tensor, source, axis, places[0], places[-1] + 1, step, like=node)
    if places == values.tolist():
        return emit(node.graph, aten.index_select.default, source, axis, index, like=node)
    return None


def _constant(node: fx.Node) -> Tensor | None:
    module = node.graph.owning_module
    if node.op != "get_attr" or module is None:
        return None
    value = getattr(module, str(node.target))
    return value if isinstance(value, Tensor) else None


RULES = (
    _part_is_slice,
    _slice_names_its_start,
    _selection_of_split_axis_is_slice,
    _stack_is_concatenation,
    _concatenation_of_something,
    _copy_is_value,
    _write_is_concatenation,
    _constant_indices_are_slice,
)
