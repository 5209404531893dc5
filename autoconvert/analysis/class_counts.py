"""How often each class occurs among numbers: read back from the sizes by which code splits what it has sorted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from autoconvert.analysis.constants import is_filled
from autoconvert.analysis.one_hot import below, class_mask, differ_along, one_hot
from autoconvert.ir.nodes import arguments, first_operand, shape

aten = torch.ops.aten


def are_counts(sizes: Sequence[Any], numbers: fx.Node) -> bool:
    """Whether `sizes` say how often 0, 1, … occur among `numbers`, which are no others."""
    limit = below(numbers)
    counted = all(_is_count(size, number, numbers) for number, size in enumerate(sizes))
    return counted and limit is not None and limit <= len(sizes)


def same_entries(node: fx.Node) -> fx.Node:
    """The value whose entries, in its order, are those of `node`."""
    while node.target is aten.reshape.default or (node.target is aten._to_copy.default and _is_whole(node)):
        node = first_operand(node)
    return node


def _is_whole(node: fx.Node) -> bool:
    return not (node.meta["val"].is_floating_point() or first_operand(node).meta["val"].is_floating_point())


def _is_count(size: Any, number: int, numbers: fx.Node) -> bool:
    if not isinstance(size, fx.Node) or size.target not in (aten.item.default, aten._local_scalar_dense.default):
        return False
    count = first_operand(size)
    if count.target is aten.select.int:
        counts, _, place = arguments(count)
        own = shape(counts)
        return len(own) == 1 and isinstance(own[0], int) and place % own[0] == number and _counted(counts, numbers)
    mask = class_mask(first_operand(count)) if count.target is aten.sum.default else None
    return mask is not None and mask.number == number and same_entries(mask.numbers) is same_entries(numbers)


def _counted(counts: fx.Node, numbers: fx.Node) -> bool:
    """Whether `counts` has for each class how often it is among `numbers`."""
    if counts.meta["val"].is_floating_point():
        return False
    counted = _of_sum(counts) if counts.target is aten.sum.dim_IntList else _of_ones(counts)
    return counted is not None and same_entries(counted) is same_entries(numbers)


def _of_sum(counts: fx.Node) -> fx.Node | None:
    """The numbers of a code with a 1 for each of them, summed over all axes but that of the classes."""
    code = first_operand(counts)
    over = {axis % len(shape(code)) for axis in arguments(counts)[1]}
    found = one_hot(code)
    if found is not None:
        return found.numbers if over == {a for a, axis in enumerate(found.axes) if axis is not None} else None
    written = code
    while written.target is aten._to_copy.default:
        written = first_operand(written)
    if written.target is not aten.scatter.value or len(shape(written)) != 2:
        return None
    base, axis, numbers, value = arguments(written)
    # A class that occurs twice in a row would be counted once.
    once = value == 1 and is_filled(base, 0) and differ_along(numbers, 1)
    return numbers if once and axis in (1, -1) and over == {0} else None


def _of_ones(counts: fx.Node) -> fx.Node | None:
    """The numbers at which ones were added to zeros."""
    if counts.target not in (aten.scatter_add.default, aten.index_add.default) or counts.kwargs:
        return None
    base, _, numbers, ones, *scale = arguments(counts)
    is_sum = is_filled(base, 0) and is_filled(ones, 1) and not scale
    return numbers if is_sum and len(shape(base)) == len(shape(numbers)) == 1 else None
