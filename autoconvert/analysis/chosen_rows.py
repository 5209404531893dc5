"""Chosen rows: lists of entries of a table by which code picks rows, and the proof that rows do not meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.layouts import Layout
from autoconvert.analysis.one_hot import class_mask, differ_along
from autoconvert.analysis.regions import ancestors
from autoconvert.analysis.sequence_axis import check_separate
from autoconvert.ir.editing import infer
from autoconvert.ir.nodes import concrete, shape
from autoconvert.ir.provenance import provenance_of

# For proofs about rows every other unknown size is some number, and the rows another one than anything else.
_SOME_LENGTH = 7
_SOME_ROWS = 5


@dataclass(frozen=True, eq=False)
class Entries:
    """Some entries of a table, in some order: those where `mask` is true, all where there is none.

    Those that are sorted by `numbers` are all; a piece of them, those of the number `piece` of `whole`.
    """

    mask: fx.Node | None
    numbers: fx.Node | None = None
    whole: "Entries | None" = None
    piece: int = 0

    @cached_property
    def proof(self) -> "Proof":
        return Proof()

    def differ_without(self, axes: Sequence[int]) -> bool:
        """Whether no two of the entries have the same places but along `axes` of the table."""
        mask = None if self.mask is None else class_mask(self.mask)
        return mask is not None and len(axes) == 1 and differ_along(mask.numbers, mask.axes[axes[0]])


@dataclass(frozen=True)
class Column:
    """For each of the entries its place along an axis of the table, whose axes have `sizes`."""

    entries: Entries
    sizes: tuple[Any, ...]
    axis: int


@dataclass(eq=False)
class Proof:
    """What is computed of chosen rows, copied to a graph in which their number is the only unknown size."""

    graph: fx.Graph = field(default_factory=fx.Graph)
    _put_back: list[fx.Node] = field(default_factory=list)
    _others: dict[fx.Node, fx.Node] = field(default_factory=dict)

    @cached_property
    def _mode(self) -> FakeTensorMode:
        return FakeTensorMode(shape_env=ShapeEnv())

    @cached_property
    def _count(self) -> Any:
        return self._mode.from_tensor(torch.empty(_SOME_ROWS), static_shapes=False).shape[0]

    def axis(self, node: fx.Node) -> int | None:
        """The axis, from the end, along which the rows of a copy stand; None without one."""
        found = axes(node, self._count.node.expr)
        return found[0] if len(found) == 1 and str(shape(node)[found[0]]) == str(self._count) else None

    def picked(self, rows: fx.Node, axis: int) -> fx.Node:
        """The copy of rows that are picked of `rows` along `axis`."""
        sizes: list[Any] = [concrete(size, _SOME_LENGTH) for size in shape(rows)]
        sizes[axis] = self._count
        return self._given(rows, sizes)

    def follow(self, node: fx.Node, copies: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """The copy of an operation on rows, whose operands that are rows have `copies`."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: copies.get(n) or self._other(n))
        made = self.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
        made.meta = provenance_of(node)
        made.meta["val"] = infer(made)
        return made

    def is_counted(self, node: fx.Node) -> bool:
        """Whether a copy is a number that the number of rows decides."""
        value = node.meta["val"]
        return isinstance(value, torch.SymInt) and self._count.node.expr in value.node.expr.free_symbols

    def put_back(self, node: fx.Node) -> None:
        """The rows of this copy are put back where they were picked from."""
        self._put_back.append(node)

    def check(self) -> None:
        """Proves that no rows meet in what is put back.

        Raises:
            Refused: naming the first operation that is not proven.
        """
        needed = ancestors(self._put_back)
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in self.graph.nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, lambda n: copies[n])
        layouts = check_separate(graph, self._count.node.expr)
        assert all(layouts[copies[node]] == Layout() for node in self._put_back)

    def _other(self, node: fx.Node) -> Any:
        """An operand that is no row, with some number for each size."""
        value = node.meta["val"]
        if isinstance(value, torch.SymInt):
            return concrete(value, _SOME_LENGTH)
        if not isinstance(value, Tensor):
            return value
        if node not in self._others:
            self._others[node] = self._given(node, [concrete(size, _SOME_LENGTH) for size in value.shape])
        return self._others[node]

    def _given(self, node: fx.Node, sizes: Sequence[Any]) -> fx.Node:
        made = self.graph.placeholder(f"{node.name}_{len(self.graph.nodes)}")
        with self._mode:
            made.meta["val"] = torch.empty(list(sizes), dtype=node.meta["val"].dtype)
        return made
