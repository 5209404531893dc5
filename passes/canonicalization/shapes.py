"""The order and number of axes: reshapes, expansions, repetitions and transposes."""

from typing import Any

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, same_shape, shape
from autoconvert.rewrite.rule import rule

aten = torch.ops.aten


@rule(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.view_as.default,
    aten.squeeze.default,
    aten.squeeze.dims,
)
def _one_reshape(node: fx.Node) -> fx.Node | None:
    source = first_operand(node)
    if same_shape(node, source):
        return source
    while source.target is aten.reshape.default:
        source = first_operand(source)
    if same_shape(node, source):
        return source
    return _reshape(node, source, shape(node))


def _reshape(node: fx.Node, source: fx.Node, sizes: tuple[Any, ...]) -> fx.Node | None:
    """Sizes as numbers, the one symbolic size as -1; with more of them, as they were written."""
    written = arguments(node)[1] if len(arguments(node)) == 2 and isinstance(arguments(node)[1], list | tuple) else ()
    if sum(map(is_symbolic, sizes)) <= 1:
        resolved = [-1 if is_symbolic(size) else size for size in sizes]
    elif len(written) == len(sizes):
        resolved = list(written)
    else:
        return None
    if (node.target, arguments(node)[0], list(written)) == (aten.reshape.default, source, resolved):
        return None
    return emit(node.graph, aten.reshape.default, source, resolved, like=node)


@rule(aten.expand.default, aten.broadcast_to.default, aten.expand_as.default)
def _expand_only_what_grows(node: fx.Node) -> fx.Node | None:
    """Sizes that stay as they are, are -1."""
    source, sizes = first_operand(node), shape(node)
    if same_shape(node, source):
        return source
    before = (None,) * (len(sizes) - len(shape(source))) + shape(source)
    written = arguments(node)[1] if isinstance(arguments(node)[1], list | tuple) else sizes
    resolved = [
        -1 if old is not None and str(new) == str(old) else (new if not is_symbolic(new) else length)
        for new, old, length in zip(sizes, before, written, strict=True)
    ]
    if (node.target, list(written)) == (aten.expand.default, resolved) or any(map(is_symbolic, resolved)):
        return None
    return emit(node.graph, aten.expand.default, source, resolved, like=node)


@rule(aten.repeat_interleave.self_int)
def _repetition_in_a_row_is_expansion(node: fx.Node) -> fx.Node | None:
    """What stands several times is one entry on a new axis, which is then merged with the one it repeats."""
    source, count, *rest = arguments(node)
    if not isinstance(count, int) or not rest or rest[0] is None:
        return None
    return _repeated(node, source, rest[0] % len(shape(source)), count, in_a_row=True)


@rule(aten.repeat.default)
def _repetition_is_expansion(node: fx.Node) -> fx.Node | None:
    source, times = arguments(node)
    if not all(isinstance(count, int) for count in times):
        return None
    for _ in range(len(times) - len(shape(source))):
        source = emit(node.graph, aten.unsqueeze.default, source, 0, like=node)
    for axis, count in enumerate(times):
        source = _repeated(node, source, axis, count, in_a_row=False)
    return source


def _repeated(node: fx.Node, source: fx.Node, axis: int, count: int, *, in_a_row: bool) -> fx.Node:
    """Every entry of `axis`, counted from the front, `count` times in a row, or all of them `count` times."""
    if count == 1:
        return source
    sizes = shape(source)
    if sizes[axis] == 1 and not in_a_row:
        return emit(node.graph, aten.expand.default, source, _only(axis, count, len(sizes)), like=node)
    new_axis = axis + in_a_row
    wide = emit(node.graph, aten.unsqueeze.default, source, new_axis, like=node)
    wide = emit(node.graph, aten.expand.default, wide, _only(new_axis, count, len(sizes) + 1), like=node)
    merged = [*sizes[:axis], sizes[axis] * count, *sizes[axis + 1 :]]
    return emit(node.graph, aten.reshape.default, wide, [-1 if is_symbolic(n) else n for n in merged], like=node)


def _only(axis: int, count: int, rank: int) -> list[int]:
    return [count if index == axis else -1 for index in range(rank)]


@rule(aten.t.default, aten.numpy_T.default, aten.mT.default)
def _transposed_is_transpose(node: fx.Node) -> fx.Node | None:
    """`.T` reverses all axes, which is a transpose of two, and `.mT` exchanges the last two of any number."""
    rank = len(shape(node))
    if rank < 2:
        return first_operand(node) if node.target is not aten.mT.default else None
    if rank > 2 and node.target is aten.numpy_T.default:
        return emit(node.graph, aten.permute.default, first_operand(node), [*range(-1, -rank - 1, -1)], like=node)
    return emit(node.graph, aten.transpose.int, first_operand(node), -2, -1, like=node)


@rule(aten.permute.default)
def _permutation_of_two_is_transpose(node: fx.Node) -> fx.Node | None:
    """One of no axes is nothing."""
    rank = len(shape(node))
    moved = [axis for axis, source in enumerate(arguments(node)[1]) if axis != source % rank]
    if not moved:
        return first_operand(node)
    if len(moved) != 2:
        return None
    low, high = moved
    return emit(node.graph, aten.transpose.int, first_operand(node), low - rank, high - rank, like=node)


@rule(aten.transpose.int)
def _lower_axis_first(node: fx.Node) -> fx.Node | None:
    """An axis transposed with itself is nothing."""
    source, high, low = arguments(node)
    if high < low:
        return None
    return emit(node.graph, aten.transpose.int, source, low, high, like=node) if low != high else source


@rule(aten.transpose.int)
def _transposed_twice_is_nothing(node: fx.Node) -> fx.Node | None:
    source = first_operand(node)
    is_back = source.target is aten.transpose.int and arguments(source)[1:] == arguments(node)[1:]
    return first_operand(source) if is_back else None


RULES = (
    _one_reshape,
    _expand_only_what_grows,
    _repetition_in_a_row_is_expansion,
    _repetition_is_expansion,
    _transposed_is_transpose,
    _permutation_of_two_is_transpose,
    _lower_axis_first,
    _transposed_twice_is_nothing,
)
