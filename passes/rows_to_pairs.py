"""Rows to pairs: what is computed on the rows of one class, for the rows of all classes at once.

The rows are all the pairs that `numbers` has an entry for, each with the parameters of the class that its number names.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoconvert.analysis.layouts import Layout
from autoconvert.analysis.one_hot import below
from autoconvert.analysis.op_traits import is_pointwise
from autoconvert.analysis.regions import ancestors
from autoconvert.analysis.sequence_axis import check_separate
from autoconvert.errors import Refused
from autoconvert.ir.editing import emit, infer
from autoconvert.ir.nodes import arguments, concrete, first_operand, is_symbolic, named_arguments, shape, type_key
from autoconvert.passes.row_tables import NotRowwise, static, taken
from autoconvert.tracing.untraceable import is_ours

aten = torch.ops.aten

# For proofs about one axis every other unknown size is some number.
_SOME_LENGTH = 7
# Of the rows, another number than of anything else.
_SOME_ROWS = 5

Columns = Sequence[fx.Node | None]


@dataclass(frozen=True)
class Pairs:
    """The entries of `numbers`, of which those from `first` up to `end` count.

    A row's places along the axes of a class's mask are along those axes of `numbers` in the order of `axes`; rows
    are added along `axis` of `numbers`.
    """

    numbers: fx.Node
    axes: tuple[int, ...]
    axis: int
    first: int
    end: int

    @property
    def is_all(self) -> bool:
        """No number lies outside."""
        limit = below(self.numbers)
        return self.first == 0 and limit is not None and limit <= self.end


def isomorphic(
    rows: fx.Node, columns: Columns, others: fx.Node, other_columns: Columns, weights: Container[str]
) -> dict[fx.Node, fx.Node] | None:
    """For every value that both are computed from, what stands in its place in the other; None if they differ.

    Such a pair is one value for both, or two parameters of one shape; `weights` names the inputs that are weights.
    """
    dependent = _dependent(columns)
    same = {a: b for a, b in zip(columns, other_columns, strict=True) if a is not None}
    if any(b is None for b in same.values()):
        return None
    leaves: dict[fx.Node, fx.Node] = {}

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, list | tuple):
            return isinstance(b, list | tuple) and len(a) == len(b) and all(map(equal, a, b))
        if not isinstance(a, fx.Node):
            return type(a) is type(b) and bool(a == b)
        if a in same:
            return same[a] is b
        if not isinstance(b, fx.Node):
            return False
        same[a] = b
        if a not in dependent:
            leaves[a] = b
            alike = type_key(_value(a)) == type_key(_value(b))
            return a is b or (alike and _is_parameter(a, weights) and _is_parameter(b, weights))
        return a.target == b.target and equal(list(a.args), list(b.args)) and equal_options(a, b)

    def equal_options(a: fx.Node, b: fx.Node) -> bool:
        return a.kwargs.keys() == b.kwargs.keys() and all(equal(a.kwargs[key], b.kwargs[key]) for key in a.kwargs)

    return leaves if equal(rows, others) else None


def on_pairs(pairs: Pairs, rows: Sequence[fx.Node], columns: Sequence[Columns], weights: Container[str]) -> fx.Node:
    """What all classes together add, [size of the axis, …]; `rows` and `columns` are those of each class.

    Raises:
        NotRowwise: rows are not computed one by one, or parameters are used in an unknown way.
    """
    leaves = [isomorphic(rows[0], columns[0], r, c, weights) for r, c in zip(rows, columns, strict=True)]
    dependent = _dependent(columns[0])
    _check_rowwise(rows[0], columns[0], dependent)
    result = _Rewrite(pairs, columns[0], dependent, _differing(leaves)).value(rows[0])
    return _added(pairs, result, like=rows[0])


def at_once(
    numbers: fx.Node, rows: Sequence[fx.Node], picked: Sequence[Columns], dense: Columns, weights: Container[str]
) -> fx.Node | None:
    """What each class of `numbers` computes of its own rows, for all rows; None where classes are not alike.

    `rows` are those of each class, the first of number 0, computed of what it has `picked`, which for all rows is
    `dense`. That rows are computed one by one was proven.
    """
    leaves = [isomorphic(rows[0], picked[0], r, p, weights) for r, p in zip(rows, picked, strict=True)]
    if any(of_class is None for of_class in leaves):
        return None
    pairs = Pairs(numbers, (0,), 0, 0, len(rows))
    rewrite = _Rewrite(pairs, (), _dependent(picked[0]), _differing(leaves))
    rewrite.known.update({p: d for p, d in zip(picked[0], dense, strict=True) if p is not None and d is not None})
    try:
        return rewrite.value(rows[0])
    except NotRowwise:
        return None


def _differing(leaves: Sequence[dict[fx.Node, fx.Node] | None]) -> dict[fx.Node, list[fx.Node]]:
    """The parameters that are not the same for all classes, those of each by that of the first."""
    return {
        leaf: [of_class[leaf] for of_class in leaves if of_class is not None]
        for leaf, own in (leaves[0] or {}).items()
        if any(of_class is None or of_class[leaf] is not own for of_class in leaves)
    }


def _dependent(columns: Columns) -> set[fx.Node]:
    """Everything that is computed from the places, until it is added to a sum."""
    found: set[fx.Node] = set()
    pending = [column for column in columns if column is not None]
    while pending:
        node = pending.pop()
        if node not in found and node.target is not aten.index_add.default:
            found.add(node)
            pending.extend(node.users)
    return found


def _is_parameter(node: fx.Node, weights: Container[str]) -> bool:
    inputs = [n for n in ancestors([node]) if n.op == "placeholder"]
    return isinstance(_value(node), Tensor) and all(n.target in weights for n in inputs)


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


def _check_rowwise(rows: fx.Node, columns: Columns, dependent: set[fx.Node]) -> None:
    """Proves on a copy, in which the number of rows is the only unknown size, that rows never meet."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    count: Any = mode.from_tensor(torch.empty(_SOME_ROWS), static_shapes=False).shape[0]
    try:
        graph, result = _copied_for(rows, columns, dependent, mode, count)
        separate = check_separate(graph, count.node.expr).get(result) == Layout() and is_symbolic(shape(result)[0])
    except Refused as refusal:
        raise NotRowwise(str(refusal).rstrip(".")) from refusal
    except RuntimeError as error:
        if is_ours(error):
            raise
        # What fails for a number of rows too is another fault than that the operation must know it.
        _copied_for(rows, columns, dependent, mode, _SOME_ROWS)
        raise NotRowwise(str(error).rstrip(".")) from error
    if not separate:
        raise NotRowwise("their number is not the first size")


def _copied_for(
    rows: fx.Node, columns: Columns, dependent: set[fx.Node], mode: FakeTensorMode, count: int | torch.SymInt
) -> tuple[fx.Graph, fx.Node]:
    """What computes `rows`, copied for `count` rows, and the copy of `rows`."""
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}

    def copy(node: fx.Node) -> Any:
        if node not in copies:
            copies[node] = copied(node)
        return copies[node]

    def copied(node: fx.Node) -> Any:
        value = _value(node)
        if node in dependent and node not in columns:
            args, kwargs = fx.map_arg((node.args, node.kwargs), copy)
            made = graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
            made.meta["val"] = infer(made)
            return made
        if isinstance(value, torch.SymInt):
            return concrete(value, _SOME_LENGTH)
        made = graph.placeholder(node.name)
        with mode:
            sizes = (count,) if node in columns else [concrete(size, _SOME_LENGTH) for size in value.shape]
            made.meta["val"] = torch.empty(sizes, dtype=value.dtype)
        return made

    result = copy(rows)
    graph.output(result)
    return graph, result


@dataclass
class _Rewrite:
    """Copies what is computed on the rows of one class, for all pairs, at the graph's insertion point.

    `known` has the copies, which may begin with some.
    """

    pairs: Pairs
    columns: Columns
    dependent: set[fx.Node]
    parameters: dict[fx.Node, list[fx.Node]]
    known: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def value(self, node: fx.Node) -> fx.Node:
        if node not in self.known:
            self.known[node] = self._copied(node)
        return self.known[node]

    def _copied(self, node: fx.Node) -> fx.Node:
        if node in self.columns:
            raise NotRowwise("places are computed with")
        if node in self.parameters:
            raise NotRowwise("parameters are used in an unknown way")
        if node not in self.dependent:
            return node
        if node.target is aten.index.Tensor and any(index in self.columns for index in arguments(node)[1]):
            return self._entries(node)
        if node.target is aten.linear.default and node.args[1] in self.parameters:
            return self._linear(node)
        beside: set[fx.Node] = set()
        if is_pointwise(node.target):
            beside = self.parameters.keys() & set(node.all_input_nodes)
        args = [
            self._beside(a, node) if isinstance(a, fx.Node) and a in beside else self._argument(a)
            for a in arguments(node)
        ]
        kwargs = {key: self._argument(a) for key, a in node.kwargs.items()}
        return emit(node.graph, node.target, *args, like=node, **kwargs)  # type: ignore[arg-type]

    def _argument(self, argument: Any) -> Any:
        return fx.map_arg(argument, self.value)

    def _entries(self, node: fx.Node) -> fx.Node:
        """x[…, places, …] for all places: the axes of x that are picked from, in the order of `numbers`, as one."""
        source, indices = arguments(node)
        at = [axis for axis, index in enumerate(indices) if index is not None]
        if source in self.dependent or any(indices[axis] not in self.columns for axis in at):
            raise NotRowwise("it picks by what is computed from places")
        of_number = {self.pairs.axes[self.columns.index(indices[axis])]: axis for axis in at}
        return taken(source, of_number, shape(self.pairs.numbers), node)

    def _linear(self, node: fx.Node) -> fx.Node:
        x = self.value(first_operand(node))
        if len(shape(x)) != 2:
            raise NotRowwise("a parameter is multiplied with more than vectors")
        row = _emit(node, aten.unsqueeze.default, x, -2)
        matrix = _emit(node, aten.transpose.int, self._picked(node.args[1], node), -2, -1)
        product = _emit(node, aten.squeeze.dim, _emit(node, aten.matmul.default, row, matrix), -2)
        bias = named_arguments(node)["bias"]
        if bias is None:
            return product
        return _emit(node, aten.add.Tensor, product, self._picked(bias, node) if bias in self.parameters else bias)

    def _beside(self, parameter: fx.Node, node: fx.Node) -> fx.Node:
        """A vector for each class beside rows of vectors."""
        if len(shape(parameter)) != 1 or len(shape(node)) != 2:
            raise NotRowwise("a parameter that is no vector is beside rows")
        return self._picked(parameter, node)

    def _picked(self, parameter: Any, node: fx.Node) -> fx.Node:
        """The parameter of each row's class, [rows, …]."""
        stack = _stacked(self.parameters[parameter], node)
        numbers = _emit(node, aten.reshape.default, self.pairs.numbers, [-1])
        if self.pairs.first:
            numbers = _emit(node, aten.sub.Tensor, numbers, self.pairs.first)
        if not self.pairs.is_all:
            numbers = _emit(node, aten.clamp.default, numbers, 0, self.pairs.end - self.pairs.first - 1)
        return _emit(node, aten.index.Tensor, stack, [numbers])


def _stacked(parameters: Sequence[fx.Node], like: fx.Node) -> fx.Node:
    """Parameters on a new first axis; those that are all entries of one, in order, are that one."""
    first = parameters[0]
    if first.target is aten.select.int and all(p.target is aten.select.int for p in parameters):
        whole, axis, start = arguments(first)
        end, rank = start + len(parameters), len(shape(first)) + 1
        if [arguments(p) for p in parameters] == [(whole, -rank, number) for number in range(start, end)]:
            return _emit(like, aten.slice.Tensor, whole, axis, start, end)
    return _emit(like, aten.stack.default, list(parameters))


def _added(pairs: Pairs, rows: fx.Node, like: fx.Node) -> fx.Node:
    """Rows of numbers outside count as 0; the others are summed over every axis of `numbers` but one."""
    sizes, features = shape(pairs.numbers), static(shape(rows)[1:])
    if not pairs.is_all:
        counts = _emit(like, aten.reshape.default, _within(pairs, like), [-1] + [1] * len(features))
        rows = _emit(like, aten.where.ScalarOther, counts, rows, 0.0)
    wide = _emit(like, aten.reshape.default, rows, [-1 if is_symbolic(n) else n for n in sizes] + features)
    others = [axis for axis in range(len(sizes)) if axis != pairs.axis]
    return _emit(like, aten.sum.dim_IntList, wide, others) if others else wide


def _within(pairs: Pairs, like: fx.Node) -> fx.Node:
    low = _emit(like, aten.ge.Scalar, pairs.numbers, pairs.first)
    return _emit(like, aten.logical_and.default, low, _emit(like, aten.lt.Scalar, pairs.numbers, pairs.end))


def _emit(like: fx.Node, target: Any, *args: Any) -> fx.Node:
    return emit(like.graph, target, *args, like=like)
