"""Tables of rows: a row for every entry of a table, taken from a value, or laid back where it came from.

The rows stand in the order of the table's entries, along one axis of a value. Each axis of the table is one of the
value that rows are taken from, or there is none for it: then every place along it takes the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from autoconvert.analysis.constants import is_filled
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import is_symbolic, same_shape, shape

aten = torch.ops.aten


class NotRowwise(Exception):
    """Why rows cannot be computed all at once."""


def taken(x: fx.Node, of_table: Mapping[int, int], sizes: Sequence[Any], like: fx.Node) -> fx.Node:
    """x[…, places, …] for all entries of a table: `of_table` has for axes of the table those of `x`."""
    at = _side_by_side(x, of_table, sizes)
    if len(sizes) == 1:
        return x
    of_x = shape(x)
    before, after = range(at[0]), range(at[-1] + 1, len(of_x))
    order = [*before, *(of_table[axis] for axis in sorted(of_table)), *after]
    wide = _permuted(x, order, like)
    for axis, size in enumerate(sizes):
        if axis not in of_table:
            wide = _expanded(wide, at[0] + axis, size, like)
    return _emit(like, aten.reshape.default, wide, [*static(of_x[: at[0]]), -1, *static(of_x[at[-1] + 1 :])])


def laid_back(
    base: fx.Node,
    of_table: Mapping[int, int],
    sizes: Sequence[Any],
    rows: fx.Node,
    mask: fx.Node | None,
    like: fx.Node,
    *,
    adds: bool,
) -> fx.Node:
    """`base` with `rows` where they were taken from, or added there; of the entries that `mask` leaves out, none.

    Along an axis of the table that is none of `base`, all rows are added; where they do not add to `base`, no more
    than one of them may be in the mask.
    """
    at = _side_by_side(base, of_table, sizes)
    front, behind = len(shape(base)[: at[0]]), len(shape(base)[at[-1] + 1 :])
    wide = rows
    if len(sizes) > 1:
        of_rows = shape(rows)
        split = [-1 if is_symbolic(size) else size for size in sizes]
        wide = _emit(
            like, aten.reshape.default, rows, [*static(of_rows[:front]), *split, *static(of_rows[front + 1 :])]
        )
    if mask is None and not adds and len(of_table) == len(sizes):
        return _in_order(wide, of_table, len(sizes), front, behind, like)
    held = None if mask is None else _beside(mask, sizes, behind, like)
    if held is not None and (adds or len(of_table) < len(sizes)):
        wide = _emit(like, aten.where.ScalarOther, held, wide, _nothing(rows))
    missing = [axis for axis in range(len(sizes)) if axis not in of_table]
    if missing:
        wide = _emit(like, aten.sum.dim_IntList, wide, [front + axis for axis in missing])
        for axis in reversed(missing):
            held = held if held is None or adds else _emit(like, aten.any.dim, held, axis)
    wide = _in_order(wide, of_table, len(sizes), front, behind, like)
    if adds:
        return wide if _is_zero(base, wide) else _emit(like, aten.add.Tensor, base, wide)
    if held is None:
        raise NotRowwise("several rows are written to one place")
    held = _in_order(held, of_table, len(sizes), 0, behind, like)
    if _is_zero(base, wide):
        return _emit(like, aten.where.ScalarOther, held, wide, _nothing(wide))
    return _emit(like, aten.where.self, held, wide, base)


def written_over(
    base: fx.Node, of_table: Mapping[int, int], sizes: Sequence[Any], value: fx.Node, mask: fx.Node, like: fx.Node
) -> fx.Node:
    """`base` with one `value` in place of every row of the mask."""
    at = _side_by_side(base, of_table, sizes)
    behind = len(shape(base)) - at[-1] - 1
    if len(shape(value)) > behind:
        raise NotRowwise("others than the rows that were picked are put back")
    held = _in_order(_beside(mask, sizes, behind, like), of_table, len(sizes), 0, behind, like)
    return _emit(like, aten.where.self, held, value, base)


def static(sizes: Sequence[Any]) -> list[int]:
    if any(map(is_symbolic, sizes)):
        raise NotRowwise("a second axis has an unknown size")
    return [int(size) for size in sizes]


def _nothing(rows: fx.Node) -> float | int:
    return 0.0 if rows.meta["val"].is_floating_point() else 0


def _is_zero(base: fx.Node, rows: fx.Node) -> bool:
    """Whether zeros, of which nothing else is to be known, are all that rows are laid on."""
    return is_filled(base, 0) and base.meta["val"].dtype == rows.meta["val"].dtype and same_shape(base, rows)


def _side_by_side(x: fx.Node, of_table: Mapping[int, int], sizes: Sequence[Any]) -> list[int]:
    """The axes of `x` that the table has, which must be as long and have nothing between them."""
    at = sorted(of_table.values())
    if at != list(range(at[0], at[0] + len(at))):
        raise NotRowwise("it picks along axes that are not side by side")
    if any(str(sizes[of]) != str(shape(x)[axis]) for of, axis in of_table.items()):
        raise NotRowwise("it picks from an axis of another length")
    return at


def _beside(mask: fx.Node, sizes: Sequence[Any], behind: int, like: fx.Node) -> fx.Node:
    """The mask as a table of `sizes`, with an axis of 1 for each of those `behind` it."""
    if len(shape(mask)) != len(sizes):
        mask = _emit(like, aten.reshape.default, mask, [-1 if is_symbolic(size) else size for size in sizes])
    for _ in range(behind):
        mask = _emit(like, aten.unsqueeze.default, mask, -1)
    return mask


def _in_order(
    node: fx.Node, of_table: Mapping[int, int], count: int, front: int, behind: int, like: fx.Node
) -> fx.Node:
    """The axes of a table, those that are left of `count`, in the order of the value that they are axes of."""
    left = [axis for axis in range(count) if axis in of_table]
    places = sorted(range(len(left)), key=lambda place: of_table[left[place]])
    total = front + len(left) + behind
    return _permuted(node, [*range(front), *(front + p for p in places), *range(front + len(left), total)], like)


def _permuted(node: fx.Node, order: list[int], like: fx.Node) -> fx.Node:
    return node if order == sorted(order) else _emit(like, aten.permute.default, node, order)


def _expanded(node: fx.Node, axis: int, size: Any, like: fx.Node) -> fx.Node:
    """A new `axis`, along which the value is repeated."""
    if is_symbolic(size):
        raise NotRowwise("a value without positions is picked for each of them")
    wide = _emit(like, aten.unsqueeze.default, node, axis)
    return _emit(like, aten.expand.default, wide, [size if a == axis else -1 for a in range(len(shape(wide)))])


def _emit(like: fx.Node, target: Any, *args: Any) -> fx.Node:
    return emit(like.graph, target, *args, like=like)
