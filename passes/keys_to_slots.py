"""Keys to slots: what compares each position with all others compares it with slots, one for each up to the context.

A value for each pair of positions has a row for the position that it belongs to and a column for the one that is
looked at. A run may be split into chunks of rows if the columns stay: what is computed of each position for the
columns is kept in slots, and tables of pairs are read row by row. What combines the columns of a row must not see
those after it, in the text or in the slots: see analysis/later_columns.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import fx

from autoconvert import ops
from autoconvert.analysis.axis_rules import FILLED, SIZE_ARGUMENTS, argument, axes
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.analysis.constants import constant_value
from autoconvert.analysis.invariants import NO_SCORES, WHOLE_TEXT
from autoconvert.analysis.later_columns import NEUTRAL, Later, chosen, is_hidden, is_nothing, of_result, of_table
from autoconvert.analysis.op_traits import (
    CONTRACTIONS,
    FILLS,
    JOINS,
    REARRANGEMENTS,
    SELECTIONS,
    SQUEEZES,
    is_pointwise,
)
from autoconvert.errors import Inseparable
from autoconvert.ir.editing import add_constant, emit, finish, renew, set_arguments
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.ir.types import type_of
from autoconvert.ops.attention import CLOSED_BIAS
from autoconvert.passes.columns_apart import columns_apart
from autoconvert.passes.largest_columns import padded, places_of_largest, written_at_largest
from autoconvert.passes.pair_tables import hint_outside_attention, pairs_at, slot_numbers
from autoconvert.passes.position_tables import evaluate
from autoconvert.rewrite.pass_manager import Pass

aten = torch.ops.aten

_MOVED = REARRANGEMENTS | SQUEEZES | SELECTIONS | {aten.expand.default}
_PICKED = {aten.embedding.default, aten.gather.default, aten.index.Tensor}
_PRODUCTS = CONTRACTIONS - {aten.linear.default}
_TRIANGLES = {aten.tril.default, aten.triu.default}

_SEES_LATER = "it sees positions after the row's own"
_UNKNOWN = "it is not known to treat columns one by one"


def keys_to_slots(program: Program, context: int) -> Program:
    """Rewrites what tokens decide for pairs of positions; a program without any stays as it is.

    Raises:
        Inseparable: an operation on pairs is not known, or sees columns after its row.
    """
    if program.stream is None:
        return program
    came_apart = columns_apart(program.graph.graph, program.stream)
    rewriting = _Rewriting(program, context)
    for node in list(program.graph.graph.nodes):
        rewriting.visit(node)
    return program.with_graph(finish(program.graph)) if rewriting.pairs or came_apart else program


@dataclass
class _Rewriting:
    """Copies the values of pairs, in the graph's order; the last axis of the sequence is that of the columns."""

    program: Program
    context: int
    # The copy of each value of pairs, [.., sequence, .., context], and what its later columns hold.
    pairs: dict[fx.Node, fx.Node] = field(default_factory=dict)
    _later: dict[fx.Node, Later] = field(default_factory=dict)
    # What a value of each position is in the slots, [.., context, ..].
    _columns: dict[fx.Node, fx.Node] = field(default_factory=dict)
    # What has rows alone, and another type than it had.
    _renewed: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._symbol = self.program.stream
        self._times = binding_times(self.program)

    def visit(self, node: fx.Node) -> None:
        if node.op != "call_function" or self._times[node] is not Time.TOKEN:
            return
        if not self._renewed.isdisjoint(node.all_input_nodes) and renew(node):
            self._renewed.add(node)
        if not self._is_pair(node) and not any(map(self._is_pair, node.all_input_nodes)):
            return
        if node.target is ops.attention and self._times.get(named_arguments(node)["mask"]) is Time.POSITION:
            return
        with node.graph.inserting_before(node):
            if node.target is ops.attention:
                self._give_bias(node)
            elif node.target is aten.scatter.value:
                self.pairs[node] = self._written(node)
            elif node.target in _TRIANGLES:
                self.pairs[node] = self._triangle(node)
            elif node.target is aten.slice.Tensor and self._begins_a_table(node):
                self.pairs[node] = self._begun(node)
            else:
                self._copy(node)

    def _axes(self, node: fx.Node) -> list[int]:
        return axes(node, self._symbol)

    def _lengths(self, node: fx.Node) -> list[torch.SymInt]:
        return [shape(node)[axis] for axis in self._axes(node)]  # type: ignore[misc]

    def _is_pair(self, node: Any) -> bool:
        """Whether it has rows and columns, each as many as there are positions."""
        if not isinstance(node, fx.Node) or len(self._axes(node)) != 2 or self._symbol is None:
            return False
        return all(size.node.expr == self._symbol for size in shape(node) if is_symbolic(size))

    def _refused(self, node: fx.Node, why: str) -> Inseparable:
        pair = next(filter(self._is_pair, (node, *node.all_input_nodes)), node)
        return Inseparable(
            f"{location(node)} uses a value for each pair of positions outside a fused attention, and {why}.",
            hint=hint_outside_attention(node),
            at=pair.name,
        )

    def _copy(self, node: fx.Node) -> None:
        """The same operation of copies and of columns; what has no columns any more takes the place of `node`."""
        made = emit(node.graph, node.target, *self._arguments(node), like=node, **dict(node.kwargs))  # type: ignore[arg-type]
        if self._is_pair(node):
            if not self._differs_in_columns(node, made):
                raise self._refused(node, "it moves the columns")
            self.pairs[node] = made
            self._later[node] = of_result(node, self._axes(node)[-1], self._later_of)
            return
        if any(size.node.expr.is_polynomial() and size.node.expr != self._symbol for size in self._lengths(node)):
            raise self._refused(node, "it makes one axis of both")
        node.replace_all_uses_with(made)
        self._times[made] = Time.TOKEN
        if type_of(made.meta["val"]) != type_of(node.meta["val"]):
            self._renewed.add(made)

    def _differs_in_columns(self, node: fx.Node, made: fx.Node) -> bool:
        """Whether `made` has the shape of `node` but for its last axis of the sequence, which is the context."""
        sizes = list(shape(node))
        sizes[self._axes(node)[-1]] = self.context
        return list(map(str, sizes)) == list(map(str, shape(made)))

    def _pair(self, node: fx.Node) -> fx.Node:
        """The copy of a value of pairs; of one that positions decide, the rows of a table."""
        if node not in self.pairs and node.target is aten.expand.default and self._is_pair(first_operand(node)):
            self._copy(node)
        if node not in self.pairs:
            (table,) = evaluate(self.program, [node], self._times, self.context)
            self._later[node] = of_table(table)
            graph, positions = self.program.graph, self.program.input(Role.POSITIONS)
            self.pairs[node] = pairs_at(graph, f"pairs_{node.name}", table, self._axes(node), positions, node)
        return self.pairs[node]

    def _later_of(self, operand: Any) -> Later:
        if not isinstance(operand, fx.Node):
            return operand if isinstance(operand, bool | int | float) else None
        if operand not in self._later and self._times.get(operand) is Time.CONSTANT:
            value = constant_value(operand)
            self._later[operand] = value.item() if value is not None and value.numel() == 1 else None
        return self._later.get(operand)

    def _arguments(self, node: fx.Node) -> list[Any]:
        """The arguments of the copy.

        Raises Inseparable for an operation that is not known, or not for the columns.
        """
        target, given = node.target, arguments(node)
        if target in FILLED:
            return self._with_columns(node, given)
        if target in _PRODUCTS and all(map(self._is_pair, given[:2])) and not self._sums_in_rows(node):
            raise self._refused(node, "it multiplies pairs with pairs")
        operands = [self._operand(node, each) for each in given]
        if target in SIZE_ARGUMENTS and self._is_pair(node):
            return self._with_columns(node, operands)
        if target in NEUTRAL:
            return self._combined(node, operands)
        is_known = is_pointwise(target) or target in _MOVED | _PICKED | FILLS | CONTRACTIONS | JOINS
        if not is_known or self._works_along_columns(node):
            raise self._refused(node, _UNKNOWN)
        return operands

    def _sums_in_rows(self, product: fx.Node) -> bool:
        """Whether the columns of each row are summed, weighted by numbers that are learned for pairs of positions."""
        left, right = arguments(product)[:2]
        (row, column), (other_row, other_column) = self._axes(left), self._axes(right)
        if (column, other_column) != (-1, -2) or row != other_row or not self._is_learned(right):
            return False
        self._pair(left)
        if not is_nothing(self._later_of(left)):
            raise self._refused(product, _SEES_LATER)
        return True

    def _is_learned(self, node: fx.Node) -> bool:
        """Whether it is looked up in a weight by positions, so that every slot has finite numbers."""
        while node.target in _MOVED:
            node = first_operand(node)
        times = [self._times[operand] for operand in node.all_input_nodes]
        return node.target in _PICKED and times == [Time.WEIGHT, Time.POSITION]

    def _begins_a_table(self, cut: fx.Node) -> bool:
        """Whether it takes the first columns, as many as there are positions, of a table that has the context."""
        table, axis, start, end = (*arguments(cut), None)[:4]
        is_length = isinstance(end, fx.Node) and end.meta["val"].node.expr == self._symbol
        columns = shape(table)[axis]
        if len(arguments(cut)) != 4 or start != 0 or not is_length or is_symbolic(columns):
            return False
        if int(columns) < self.context:
            raise self._refused(cut, f"it has {columns} columns for {self.context} positions")
        return True

    def _begun(self, cut: fx.Node) -> fx.Node:
        table, axis = arguments(cut)[:2]
        self._later[cut] = of_result(cut, self._axes(cut)[-1], self._later_of)
        return emit(cut.graph, aten.index_select.default, self._operand(cut, table), axis, self._numbers(cut), like=cut)

    def _numbers(self, like: fx.Node) -> fx.Node:
        return slot_numbers(self.program.graph, self.context, like)

    def _slots(self, like: fx.Node) -> fx.Node:
        """How many slots there are: the context, unless a file follows the history."""
        return emit(like.graph, aten.sym_size.int, self._numbers(like), 0, like=like)

    def _triangle(self, node: fx.Node) -> fx.Node:
        """What is on one side of a diagonal, and 0 beside it."""
        if self._axes(node) != [-2, -1]:
            raise self._refused(node, _UNKNOWN)
        pair, graph = self._pair(first_operand(node)), node.graph
        ones = torch.ones(self.context, self.context, dtype=torch.bool)
        table: torch.Tensor = node.target(ones, *arguments(node)[1:])  # type: ignore[operator]
        positions = self.program.input(Role.POSITIONS)
        kept = pairs_at(self.program.graph, f"triangle_{node.name}", table, (-2, -1), positions, node)
        with pair.meta["val"].fake_mode:
            zero = emit(graph, aten.scalar_tensor.default, 0, dtype=pair.meta["val"].dtype, like=node)
        self._later[node] = chosen(of_table(table), self._later_of(first_operand(node)), 0.0)
        return emit(graph, aten.where.self, kept, pair, zero, like=node)

    def _works_along_columns(self, node: fx.Node) -> bool:
        pair = next((each for each in node.all_input_nodes if self._is_pair(each)), node)
        at = self._axes(pair)[-1]
        if node.target is aten.linear.default:
            return at == -1 or not self._is_pair(first_operand(node))
        if node.target in _PICKED:
            # For each pair an entry of a table, or of what its row has along an axis of its own.
            source = self._axes(first_operand(node))
            is_of_row = node.target is aten.gather.default and len(source) == 1 and source != [at]
            return not self._is_pair(node) or not (is_of_row or not source)
        is_along = node.target in SELECTIONS | SQUEEZES | JOINS
        return is_along and int(argument(node, "dim")) == at

    def _combined(self, node: fx.Node, operands: list[Any]) -> list[Any]:
        """An operation along some axes; along the columns only where it does not see later ones."""
        source, given = first_operand(node), named_arguments(node)["dim"]
        over = set(given if isinstance(given, list) else [given])
        row, column = self._axes(source)
        if row in over:
            raise self._refused(node, "it works along the first of both axes, which is that of the rows")
        is_smallest = node.target is aten.topk.default and not named_arguments(node)["largest"]
        if column in over and (is_smallest or not NEUTRAL[node.target](self._later_of(source))):
            raise self._refused(node, _SEES_LATER)
        if node.target is aten.topk.default and column in over:
            operands[1] = self._count(node)
            operands[0] = padded(self.program.graph, operands[0], column, operands[1], node)
        return operands

    def _count(self, topk: fx.Node) -> int:
        """How many of the columns it takes: a number, or all where there are fewer."""
        count = arguments(topk)[1]
        if isinstance(count, fx.Node):
            size = count.meta["val"].node.expr
            numbers = [int(each) for each in size.args if each.is_Integer]
            if size.func.__name__ != "Min" or {*size.args} != {*numbers, self._symbol}:
                raise self._refused(topk, f"it takes {size} of the columns")
            (count,) = numbers
        return min(int(count), self.context)

    def _operand(self, node: fx.Node, operand: Any) -> Any:
        if isinstance(operand, list | tuple):
            return [self._operand(node, each) for each in operand]
        if not isinstance(operand, fx.Node) or not self._axes(operand):
            return operand
        if self._is_pair(operand):
            return self._pair(operand)
        return self._column(operand) if self._is_of_columns(node, operand) else operand

    def _is_of_columns(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether the axis of the sequence in `operand` meets the columns of the other operand or of the result."""
        at, *more = self._axes(operand)
        if more:
            raise self._refused(node, "a size in it is computed from the length")
        if node.target in _PRODUCTS:
            left, right = arguments(node)[:2]
            if self._is_pair(node):
                return operand is right and at == -1
            if not self._is_pair(left) or self._axes(left)[-1] != -1 or at != -2:
                raise self._refused(node, "it does not sum over the columns")
            if not is_nothing(self._later_of(left)):
                raise self._refused(node, _SEES_LATER)
            return True
        pair = node if self._is_pair(node) else next(each for each in node.all_input_nodes if self._is_pair(each))
        return at == self._axes(pair)[-1]

    def _with_columns(self, node: fx.Node, given: Sequence[Any]) -> list[Any]:
        """The arguments with the slots as the size of the last axis of the sequence."""
        place = list(named_arguments(node)).index(SIZE_ARGUMENTS[node.target])  # type: ignore[index]
        operands, sizes = list(given), list(arguments(node)[place])
        sizes[self._axes(node)[-1]] = self._slots(node)
        operands[place] = sizes
        return operands

    def _column(self, node: fx.Node) -> fx.Node:
        if node not in self._columns:
            self._columns[node] = self._constant(node) or self._moved(node) or self._kept(node)
        return self._columns[node]

    def _constant(self, node: fx.Node) -> fx.Node | None:
        if self._times[node] is not Time.POSITION:
            return None
        (table,) = evaluate(self.program, [node], self._times, self.context)
        constant, (at,) = add_constant(self.program.graph, f"columns_{node.name}", table, node), self._axes(node)
        return emit(node.graph, aten.index_select.default, constant, at, self._numbers(node), like=node)

    def _moved(self, node: fx.Node) -> fx.Node | None:
        """What only moves or repeats what is kept is done behind the slots."""
        if node.target not in _MOVED or len(self._axes(first_operand(node))) != 1:
            return None
        if _width(first_operand(node)) > _width(node):
            return None
        operands = [self._column(first_operand(node)), *arguments(node)[1:]]
        if node.target in SIZE_ARGUMENTS:
            operands = self._with_columns(node, operands)
        made = emit(node.graph, node.target, *operands, like=node)
        return made if self._differs_in_columns(node, made) else None

    def _kept(self, node: fx.Node) -> fx.Node:
        """The slots of a value of each position, with the context where it has the sequence."""
        if node.meta["val"].dtype != torch.float32:
            raise self._refused(node, f"it is {node.meta['val'].dtype}, which no slot holds")
        graph, rank, (at,) = node.graph, len(shape(node)), self._axes(node)
        first = [at, *(axis for axis in range(-rank, 0) if axis != at)]
        others = [int(size) for size in shape(node) if not is_symbolic(size)]
        rows = emit(graph, aten.permute.default, node, first, like=node)
        rows = emit(graph, aten.reshape.default, rows, [1, 1, -1, prod(others)], like=node)
        kept = emit(graph, ops.slots, rows, self.context, like=node)
        whole = emit(graph, aten.reshape.default, kept, [-1, *others], like=node)
        back = [first.index(axis) - rank for axis in range(-rank, 0)]
        return emit(graph, aten.permute.default, whole, back, like=node)

    def _give_bias(self, attention: fx.Node) -> None:
        """A mask that tokens decide is a bias of each slot; attention hides what is after its row itself."""
        given = named_arguments(attention)
        mask = given["mask"]
        if not self._is_pair(mask) or given["bias"] is not None or any(map(self._is_pair, arguments(attention)[:3])):
            raise self._refused(attention, "it is more than a mask")
        bias, later = self._pair(mask), self._later_of(mask)
        if not is_hidden(later) and later is not False:
            raise self._refused(attention, _SEES_LATER)
        if mask.meta["val"].dtype == torch.bool:
            bias = emit(attention.graph, aten.where.Scalar, bias, 0.0, CLOSED_BIAS, like=attention)
        else:
            bias = emit(attention.graph, aten.clamp.default, bias, CLOSED_BIAS, like=attention)
        while len(shape(bias)) < 4:
            bias = emit(attention.graph, aten.unsqueeze.default, bias, 0, like=attention)
        set_arguments(attention, mask=None, causal=True, bias=bias)

    def _written(self, scatter: fx.Node) -> fx.Node:
        """A number written at the largest columns of each row."""
        base, dim, index, number = arguments(scatter)
        largest = places_of_largest(index)
        if largest is None or dim != -1 or not self._is_pair(base) or self._axes(base)[-1] != -1:
            raise self._refused(scatter, "it writes into columns")
        # What is chosen from has as many more, for where there are fewer slots.
        (values, _), count = arguments(first_operand(largest))[0], arguments(largest)[1]
        if list(map(str, shape(values))) != list(map(str, shape(self._pair(base)))):
            raise self._refused(scatter, "it writes into columns")
        return written_at_largest(self.program.graph, self._pair(base), values, count, number, like=scatter)


def _width(node: fx.Node) -> int:
    """How many numbers there are for each position."""
    return prod(int(size) for size in shape(node) if not is_symbolic(size))


PASS = Pass(
    "keys-to-slots",
    "What compares each position with all others compares it with slots, one for each position up to the context.",
    lambda program, options: keys_to_slots(program, options.context),
    requires=(NO_SCORES, WHOLE_TEXT),
)
