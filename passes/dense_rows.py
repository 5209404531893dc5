"""Dense rows: what code computes of the rows that it has chosen is computed of all rows, and chosen afterwards.

Code picks rows by a mask that tokens decide, or sorts all rows and cuts them into the pieces of classes; it computes on
them and puts the results back where the rows came from. As every row is computed alone, the others may be computed as
well, and no size is left that tokens decide. Rows in another order are never moved: each stays where it belongs.
"""

import operator
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.chosen_rows import Column, Entries
from autoconvert.analysis.class_counts import are_counts
from autoconvert.analysis.constants import constant_value
from autoconvert.analysis.invariants import NO_LOOPS, NO_TOKEN_SIZES, token_sized
from autoconvert.analysis.op_traits import FILLS
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.editing import emit, finish, renew
from autoconvert.ir.nodes import arguments, first_operand, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.ir.types import type_of
from autoconvert.passes.row_tables import NotRowwise, laid_back, taken, written_over
from autoconvert.passes.rows_of_classes import Chains, Rows, by_masks, by_parameters
from autoconvert.passes.written_sums import PLACES
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.tracing.untraceable import is_ours

aten = torch.ops.aten

_SORTS = {aten.sort.default, aten.sort.stable}
_ORDERS = {aten.argsort.default, aten.argsort.stable}
_QUOTIENTS = {aten.div.Tensor_mode, aten.floor_divide.default, aten.div.Scalar_mode}
_REMAINDERS = {aten.remainder.Scalar, aten.fmod.Scalar}

_HINT = "Each row must be computed alone, and put back where it came from."


def dense_rows(program: Program) -> Program:
    """Rewrites what is computed of chosen rows and put back; a program without any stays as it is.

    Raises:
        Inseparable: rows that tokens choose meet each other, or are not put back where they came from.
    """
    graph = program.graph.graph
    walk = _Walk(program.weights)
    for node in list(graph.nodes):
        walk.visit(node)
    _check(walk)
    result = program.with_graph(finish(program.graph)) if walk.entries else program
    left = token_sized(result)
    if left is not None:
        why = next((walk.reasons[n] for n in result.graph.graph.nodes if n in walk.reasons), "they are not put back")
        raise Inseparable(
            f"{location(left)} works on rows that the values of tokens choose: {why}.",
            hint=_HINT,
            at=left.name,
        )
    return result


def _check(walk: "_Walk") -> None:
    try:
        for entries in walk.put_back:
            entries.proof.check()
    except Refused as refusal:
        raise Inseparable(f"Rows that the values of tokens choose meet: {refusal.message}", hint=_HINT) from refusal


@dataclass
class _Walk:
    """Follows chosen rows through the graph, in its order, and computes the same of all rows beside it."""

    weights: Container[str]
    # By the mask, or the operation that sorts.
    entries: dict[fx.Node, Entries] = field(default_factory=dict)
    put_back: dict[Entries, None] = field(default_factory=dict)
    reasons: dict[fx.Node, str] = field(default_factory=dict)
    _columns: dict[fx.Node, Column] = field(default_factory=dict)
    _rows: dict[fx.Node, Rows] = field(default_factory=dict)
    # What operations with several results give.
    _several: dict[fx.Node, list[Column] | list[Rows]] = field(default_factory=dict)
    # What puts sorted rows in their own order again.
    _inverse: dict[fx.Node, Entries] = field(default_factory=dict)
    _pieces: dict[tuple[Entries, int], list[Entries]] = field(default_factory=dict)
    _taken: dict[Any, fx.Node] = field(default_factory=dict)
    # What has another type than before: a size that is known now.
    _renewed: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._chains = Chains(self._rows, self.weights)

    def visit(self, node: fx.Node) -> None:
        if node.op != "call_function":
            return
        if not self._renewed.isdisjoint(node.all_input_nodes) and renew(node):
            self._renewed.add(node)
        with node.graph.inserting_before(node.next):
            try:
                step = _STEPS.get(node.target)
                if step is not None and step(self, node):
                    return
                if not self._columns.keys().isdisjoint(node.all_input_nodes):
                    raise NotRowwise("their places are computed with")
                if not self._rows.keys().isdisjoint(node.all_input_nodes):
                    self._along(node)
            except NotRowwise as reason:
                self.reasons[node] = str(reason)
            except RuntimeError as error:
                if is_ours(error):
                    raise
                self.reasons[node] = str(error).strip().rstrip(".")

    def places(self, node: fx.Node) -> bool:
        mask = first_operand(node)
        entries, sizes = self._of_mask(mask), shape(mask)
        self._several[node] = [Column(entries, sizes, axis) for axis in range(len(sizes))]
        return True

    def one_of_several(self, node: fx.Node) -> bool:
        """A result of an operation, or a column of the places that `nonzero` has side by side."""
        source = first_operand(node)
        several = self._several.get(source)
        if several is None:
            return self.order(node, source) if node.target is operator.getitem else False
        if node.target is operator.getitem or (node.target is aten.select.int and arguments(node)[1] == -1):
            place = arguments(node)[-1]
        elif len(several) == len(shape(node)) == 1:
            place = 0
        else:
            raise NotRowwise("their places are not told apart")
        one = several[place]
        if isinstance(one, Rows):
            self._rows[node] = one
        else:
            self._columns[node] = one
        return True

    def order(self, node: fx.Node, sorts: fx.Node | None = None) -> bool:
        """The order of the numbers that an operation sorts: itself, or the second result of `sorts`."""
        sort = sorts or node
        if sort.target not in _SORTS | _ORDERS or (sort is not node and arguments(node)[1] != 1):
            return False
        numbers = first_operand(sort)
        if len(shape(numbers)) != 1 or numbers.meta["val"].is_floating_point() or named_arguments(sort)["descending"]:
            return False
        column = self._columns.get(numbers)
        if column is not None and column.entries.mask is None and len(column.sizes) == 1:
            self._inverse[node] = column.entries
        else:
            self.entries[node] = Entries(None, numbers)
            self._columns[node] = Column(self.entries[node], shape(numbers), 0)
        return True

    def divided(self, node: fx.Node) -> bool:
        """Places along one axis as places along two."""
        column, (_, by, *_) = self._columns.get(first_operand(node)), arguments(node)
        if column is None:
            return False
        rounding = node.kwargs.get("rounding_mode", "floor")
        (size, *more), is_whole = column.sizes, type(by) is int and by > 0 and rounding in ("floor", "trunc")
        if more or not is_whole or str(size // by * by) != str(size):
            raise NotRowwise("their places are computed with")
        self._columns[node] = Column(column.entries, (size // by, by), int(node.target in _REMAINDERS))
        return True

    def picked(self, node: fx.Node) -> bool:
        """Rows of a value by their places, by a mask, or in their own order again."""
        x = first_operand(node)
        axes = self._indices(node)
        given = list(axes.values())
        if len(given) == 1 and given[0] in self._inverse:
            return self._in_own_order(node, x, *axes)
        chosen = self._chosen(axes)
        if chosen is None:
            return False
        if x in self._rows or x in self._columns:
            raise NotRowwise("rows are picked of rows")
        entries, sizes, of_table = chosen
        key = (x, tuple(of_table.items()), tuple(map(str, sizes)))
        if key not in self._taken:
            self._taken[key] = taken(x, of_table, sizes, node)
        self._pick(node, entries, self._taken[key], min(axes))
        return True

    def _pick(self, node: fx.Node, entries: Entries, dense: fx.Node, axis: int) -> None:
        self._rows[node] = Rows(entries, dense, entries.proof.picked(dense, axis), is_picked=True)

    def _in_own_order(self, node: fx.Node, x: fx.Node, axis: int) -> bool:
        rows = self._rows.get(x)
        if rows is None or rows.entries is not self._inverse[self._indices(node)[axis]]:
            return False
        if rows.axis != axis - len(shape(x)):
            raise NotRowwise("other axes than that of the rows are put in order")
        self._keep(rows)
        self._replace(node, rows.dense)
        return True

    def put(self, node: fx.Node) -> bool:
        """Rows written or added at the places of rows."""
        base, given = self._plain(first_operand(node)), named_arguments(node)
        value: fx.Node = given.get("values") or given["source"]
        axes = self._indices(node)
        chosen = self._chosen(axes)
        if chosen is None:
            return False
        entries, sizes, of_table = chosen
        adds = node.target is aten.index_add.default or given.get("accumulate") is True
        if given.get("alpha", 1) != 1:
            raise NotRowwise("a multiple of them is added")
        missing = [axis for axis in range(len(sizes)) if axis not in of_table]
        if missing and not adds and not entries.differ_without(missing):
            raise NotRowwise("several of them may be written to one place")
        mask = entries.mask
        known = None if mask is None else constant_value(mask)
        if known is not None and bool(known.all()):
            mask = None
        if mask is not None and not adds and not missing and value not in self._rows:
            self._replace(node, written_over(base, of_table, sizes, value, mask, node))
            return True
        dense = self._fitting(value, base, entries, min(axes), len(of_table))
        if known is not None and not bool(known.any()):
            new = base
        else:
            new = laid_back(base, of_table, sizes, dense, mask, node, adds=adds)
        if not adds and not missing:
            new = self._chains.written(base, new, value, of_table, sizes)
        self._replace(node, new)
        return True

    def _fitting(self, value: Any, base: fx.Node, entries: Entries, axis: int, count: int) -> fx.Node:
        """All rows, where those of `value` are put into `base` instead of `count` axes from `axis` on."""
        rows = self._rows.get(value)
        if rows is None or rows.entries is not entries:
            raise NotRowwise("others than the rows that were picked are put back")
        sizes, own = shape(base), shape(rows.dense)
        others = [*sizes[:axis], *sizes[axis + count :]]
        if rows.axis != axis - len(own) or [str(n) for n in (*own[:axis], *own[axis + 1 :])] != list(map(str, others)):
            raise NotRowwise("rows of another shape are put back")
        self._keep(rows)
        return rows.dense

    def _plain(self, base: fx.Node) -> fx.Node:
        """What rows are put into; where all sorted rows have only given it their shape, it is in any order."""
        rows = self._rows.get(base)
        return rows.dense if rows is not None and rows.entries.mask is None and base.target in FILLS else base

    def written_where(self, node: fx.Node) -> bool:
        """`masked_scatter`: rows, one after another, where a mask is true that is the same for all of a row."""
        base, mask, value = arguments(node)
        rows = self._rows.get(value)
        if rows is None or rows.entries.mask is None:
            return False
        if len(shape(mask)) != len(shape(base)):
            raise NotRowwise("they are put along another axis")
        while mask is not rows.entries.mask:
            is_wider = mask.target is aten.expand.default
            if not is_wider and (mask.target is not aten.unsqueeze.default or arguments(mask)[1] != -1):
                raise NotRowwise("they are put where another mask is true")
            mask = first_operand(mask)
        sizes = shape(mask)
        dense = self._fitting(value, base, rows.entries, 0, len(sizes))
        of_table = {axis: axis for axis in range(len(sizes))}
        new = laid_back(base, of_table, sizes, dense, mask, node, adds=False)
        self._replace(node, self._chains.written(base, new, value, of_table, sizes))
        return True

    def split(self, node: fx.Node) -> bool:
        """Sorted rows, or their places, cut into the pieces of classes."""
        source, sizes, *_ = arguments(node)
        held: Rows | Column | None = self._rows.get(source) or self._columns.get(source)
        axis = named_arguments(node)["dim"]
        if held is None or (isinstance(held, Rows) and axis != held.axis):
            return False
        if held.entries.numbers is None or not are_counts(sizes, held.entries.numbers):
            raise NotRowwise("they are split by other sizes than how often each class occurs")
        pieces = self._cut(held.entries, len(sizes), node)
        if isinstance(held, Column):
            self._several[node] = [Column(piece, held.sizes, held.axis) for piece in pieces]
        else:
            self._several[node] = [
                Rows(piece, held.dense, piece.proof.picked(held.dense, axis), is_picked=True) for piece in pieces
            ]
        return True

    def _cut(self, whole: Entries, count: int, like: fx.Node) -> list[Entries]:
        if (whole, count) not in self._pieces:
            masks = [emit(like.graph, aten.eq.Scalar, whole.numbers, number, like=like) for number in range(count)]
            self._pieces[whole, count] = [Entries(mask, whole=whole, piece=number) for number, mask in enumerate(masks)]
        return self._pieces[whole, count]

    def joined(self, node: fx.Node) -> bool:
        """All pieces of sorted rows behind each other: the rows in that order again."""
        nodes, axis = arguments(node)[0], named_arguments(node)["dim"]
        held = [self._rows[part] for part in nodes if part in self._rows]
        whole = held[0].entries.whole if held else None
        if whole is None:
            return False
        is_along = len(held) == len(nodes) and all(part.axis == axis for part in held)
        if not is_along or [part.entries for part in held] != self._pieces.get((whole, len(nodes))):
            raise NotRowwise("pieces are not put together in their order")
        for part in held:
            self._keep(part)
        assert whole.numbers is not None
        dense = by_parameters(whole.numbers, nodes, self._rows, self.weights) or by_masks(held, node)
        self._rows[node] = Rows(whole, dense, whole.proof.picked(dense, axis))
        return True

    def _along(self, node: fx.Node) -> None:
        """An operation on rows, on all of them."""
        operands = [n for n in node.all_input_nodes if n in self._rows]
        entries = self._rows[operands[0]].entries
        if any(self._rows[n].entries is not entries for n in operands):
            raise NotRowwise("rows that were chosen in different ways meet")
        proven = entries.proof.follow(node, {n: self._rows[n].proven for n in operands})
        is_tensor = isinstance(proven.meta["val"], Tensor)
        if is_tensor and entries.proof.axis(proven) is None:
            raise NotRowwise(f"{node.target} combines them")
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._rows[n].dense if n in self._rows else n)
        dense = emit(node.graph, node.target, *args, like=node, **kwargs)  # type: ignore[arg-type]
        if not isinstance(proven.meta["val"], list | tuple) and not is_tensor and not entries.proof.is_counted(proven):
            self._replace(node, dense)
        else:
            self._rows[node] = Rows(entries, dense, proven)

    def _replace(self, node: fx.Node, new: fx.Node) -> None:
        node.replace_all_uses_with(new)
        if type_of(new.meta["val"]) != type_of(node.meta["val"]):
            self._renewed.add(new)

    def _of_mask(self, mask: fx.Node) -> Entries:
        if mask not in self.entries:
            is_true = mask
            if mask.meta["val"].dtype != torch.bool:
                is_true = emit(mask.graph, aten.ne.Scalar, mask, 0, like=mask)
            self.entries[mask] = Entries(is_true)
        return self.entries[mask]

    def _indices(self, node: fx.Node) -> dict[int, Any]:
        """The index of each axis that a node picks from, or writes to."""
        given = named_arguments(node)
        if "indices" in given:
            return {axis: index for axis, index in enumerate(given["indices"]) if index is not None}
        return {given["dim"] % len(shape(first_operand(node))): given["index"]}

    def _chosen(self, axes: dict[int, Any]) -> tuple[Entries, tuple[Any, ...], dict[int, int]] | None:
        """The entries that indices of axes pick, the table's sizes, and for its axes those that are picked from."""
        given = list(axes.values())
        if len(given) == 1 and given[0].meta["val"].dtype == torch.bool:
            (axis,), sizes = axes, shape(given[0])
            return self._of_mask(given[0]), sizes, {place: axis + place for place in range(len(sizes))}
        columns = [self._columns[index] for index in given if index in self._columns]
        if not columns:
            return None
        first = columns[0]
        of_table = {column.axis: axis for column, axis in zip(columns, axes, strict=False)}
        alike = all(column.entries is first.entries and str(column.sizes) == str(first.sizes) for column in columns)
        if not alike or len(of_table) < len(given):
            raise NotRowwise("places of different rows stand together")
        return first.entries, first.sizes, of_table

    def _keep(self, rows: Rows) -> None:
        rows.entries.proof.put_back(rows.proven)
        self.put_back[rows.entries] = None


# Whether a node is one that chooses rows, picks them or puts them back.
_STEPS: dict[Any, Callable[[_Walk, fx.Node], bool]] = {
    **dict.fromkeys(PLACES | {aten.nonzero.default}, _Walk.places),
    **dict.fromkeys((operator.getitem, aten.select.int, aten.squeeze.dim, aten.reshape.default), _Walk.one_of_several),
    **dict.fromkeys(_ORDERS, _Walk.order),
    **dict.fromkeys(_QUOTIENTS | _REMAINDERS, _Walk.divided),
    **dict.fromkeys((aten.index.Tensor, aten.index_select.default), _Walk.picked),
    **dict.fromkeys((aten.index_put.default, aten.index_add.default, aten.index_copy.default), _Walk.put),
    aten.masked_scatter.default: _Walk.written_where,
    aten.split_with_sizes.default: _Walk.split,
    aten.cat.default: _Walk.joined,
}

PASS = Pass(
    "dense-rows",
    "What code computes of the rows that it has chosen is computed of all rows, and chosen afterwards.",
    lambda program, _: dense_rows(program),
    requires=(NO_LOOPS,),
    ensures=(NO_TOKEN_SIZES,),
)
