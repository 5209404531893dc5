"""Writes into a part of a tensor, as functional graphs have them: copies and scatters become concatenations."""

from typing import Any

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, same_shape, shape
from autoconvert.passes.canonicalization.parts import axis_of, slice_of
from autoconvert.rewrite.rule import Rewriter, rewriter_rule, rule

aten = torch.ops.aten


@rule(aten.fill.Scalar)
def _filled_is_full(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.full_like.default, *arguments(node), like=node)


@rule(aten.copy.default, aten.fill.Tensor)
def _copy_is_value(node: fx.Node) -> fx.Node | None:
    """What is written over a whole tensor: nothing of the old value stays."""
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


@rewriter_rule(aten.select_scatter.default)
def _written_entry_is_concatenation(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    base, part, axis, index = arguments(node)
    size = shape(base)[axis]
    if is_symbolic(size) or not isinstance(index, int):
        return None
    _forward_reads(node, part, rewriter)
    wide = emit(node.graph, aten.unsqueeze.default, part, axis, like=node)
    return _written(node, base, wide, (axis, index % size, index % size + 1))


@rewriter_rule(aten.slice_scatter.default)
def _written_slice_is_concatenation(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    base, part, *_ = arguments(node)
    if same_shape(base, part):
        return part
    range_ = _range(node)
    if range_ is None:
        return None
    _forward_reads(node, part, rewriter)
    return _written(node, base, part, range_)


def _written(node: fx.Node, base: fx.Node, part: fx.Node, range_: tuple[int, int, int]) -> fx.Node:
    """A tensor with one part written anew is what lies before that part, the part, and what lies behind.

    Of a buffer that was made of such parts, those are taken that lie there, so that one written from end to end
    is gone.
    """
    axis, start, end = range_
    parts = [*_entries(node, base, axis, 0, start), part, *_entries(node, base, axis, end, shape(base)[axis])]
    return emit(node.graph, aten.cat.default, parts, axis, like=node)


def _range(node: fx.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a slice or of a write into one; None where the length of the sequence decides."""
    base, axis, start, end, step = slice_of(node)
    size = shape(base)[axis]
    if step != 1 or is_symbolic(size) or not isinstance(start, int) or not isinstance(end, int):
        return None
    start, end, _ = slice(start, end).indices(int(size))
    return (axis, start, end) if start < end else None


def _forward_reads(node: fx.Node, part: fx.Node, rewriter: Rewriter) -> None:
    """Who reads the part that was just written reads what was written."""
    for user in list(node.users):
        if _is_read_of(user, node) and same_shape(user, part):
            rewriter.replace(user, part)


def _is_read_of(user: fx.Node, write: fx.Node) -> bool:
    if write.target is aten.slice_scatter.default:
        return user.target is aten.slice.Tensor and _range(user) == _range(write) is not None
    if user.target is not aten.select.int or first_operand(user) is not write:
        return False
    rank, (axis, index) = len(shape(write)), arguments(user)[1:]
    return (axis % rank - rank, index) == arguments(write)[2:]


def _entries(node: fx.Node, base: fx.Node, axis: int, start: Any, end: Any) -> list[fx.Node]:
    """The entries [start, end) of `axis` as parts; those of a concatenation are its operands where they can be."""
    if start >= end:
        return []
    if base.target is aten.cat.default and axis_of(base) == axis:
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


RULES = (_filled_is_full, _copy_is_value, _written_entry_is_concatenation, _written_slice_is_concatenation)
