"""Shifts to scan: what looks back a fixed number of positions becomes a shift register.

Short convolutions and token shifts pad the sequence and cut it again. In between, entry i of a value belongs to no
position, but every entry of what is the sequence again, from the first one on, is computed from entries at fixed
distances. So its computation is built once more, from the end: asked for entry t + s of a value for every position t,
an operation that works entry by entry asks its operands for the same, a convolution for several, and padding ends the
search: it asks for what its operand was s positions before, which is 0 before the text begins. What lies after a
position is refused by the proof that follows, as that computation stays as it is.
"""

import dataclasses
from typing import Any

import torch
from sympy import Symbol
from torch import Tensor, fx
from torch.fx.passes.tools_common import stable_topological_sort

from autoconvert.analysis.axis_rules import argument, axes, axis_argument
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.analysis.constants import is_filled
from autoconvert.analysis.invariants import WHOLE_TEXT
from autoconvert.analysis.sequence_axis import is_entry_by_entry
from autoconvert.ir.editing import emit, finish
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.sizes import expression_of
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.over_rows import call_scan, from_rows, rows_of, width_of
from autoconvert.scan.scan import Scan

aten = torch.ops.aten

_PADDINGS = (aten.constant_pad_nd.default, aten.pad.default)


class _NotShifted(Exception):
    """An entry is asked for that is at no fixed distance before its position."""


def shifts_to_scan(program: Program) -> Program:
    """Replaces what is made of a padded or cut sequence, one value a position again, by values of delayed positions."""
    if program.streamed is None:
        return program
    shifts = _Shifts(program)
    times = binding_times(program)
    for node in list(program.graph.graph.nodes):
        if times[node] is Time.TOKEN and shifts.is_sequence_again(node):
            try:
                again = shifts.computed(node, 0)
            except _NotShifted:
                continue
            node.replace_all_uses_with(again)
    shifts.insert_registers(program.graph)
    stable_topological_sort(program.graph)
    return dataclasses.replace(program, graph=finish(program.graph))


@dataclasses.dataclass(frozen=True)
class _Moved:
    """A value whose entry i is entry i - `delay` of the sequence `source`, from entry `first` on, and 0 before.

    `end` says up to which entry that is so, counted from the length of the sequence; what follows is 0 as well.
    """

    source: fx.Node
    delay: int = 0
    first: int = 0
    end: int = 0

    def cut(self, start: int, surplus: int) -> "_Moved":
        """From entry `start` on, to a length of the sequence's plus `surplus`."""
        end = min(self.end - start, surplus)
        return _Moved(self.source, self.delay - start, max(self.first - start, 0), end)

    def padded(self, count: int) -> "_Moved":
        """Behind `count` zeros."""
        return _Moved(self.source, self.delay + count, self.first + count, self.end + count)


class _Shifts:
    """Values of delayed positions, each asked for once."""

    def __init__(self, program: Program) -> None:
        self._symbol: Symbol = program.stream
        self._delayed: dict[fx.Node, dict[int, fx.Node]] = {}

    def is_sequence_again(self, node: fx.Node) -> bool:
        """Whether a value as long as the text is computed from one that is not, or padded and cut at once."""
        if self._surplus(node) != 0:
            return False
        return node.target in _PADDINGS or any(self._surplus(each) for each in node.all_input_nodes)

    def computed(self, node: fx.Node, shift: int) -> fx.Node:
        """Entry t + `shift` of `node`, for every position t, computed from sequences before it."""
        moved = self._moved(node)
        if moved is not None:
            return self._entry(moved, shift)
        if node.op != "call_function":
            raise _NotShifted
        if self._is_cut(node):
            return self._at(first_operand(node), shift + self._start(node))
        with node.graph.inserting_before(node):
            if node.target is aten.conv1d.default:
                return self._convolution(node, shift)
            if node.target is aten.unfold.default:
                return self._windows(node, shift)
            return self._entry_by_entry(node, shift)

    def _at(self, node: fx.Node, shift: int) -> fx.Node:
        if self._surplus(node) == 0:
            return self._entry(_Moved(node), shift)
        return self.computed(node, shift)

    def _entry(self, moved: _Moved, shift: int) -> fx.Node:
        """The register is 0 before the text begins, which is where `moved` has to be, and ends with the position."""
        delay = moved.delay - shift
        if delay < 0 or moved.first > max(moved.delay, shift) or shift > moved.end:
            raise _NotShifted
        source = moved.source
        if delay == 0:
            return source
        if source.meta["val"].dtype != torch.float32 or len(axes(source, self._symbol)) != 1:
            raise _NotShifted
        asked = self._delayed.setdefault(source, {})
        if delay not in asked:
            with source.graph.inserting_after(source):
                asked[delay] = emit(source.graph, aten.clone.default, source, like=source)
        return asked[delay]

    def _moved(self, node: fx.Node) -> _Moved | None:
        """The value as a sequence that is padded with zeros and cut, if it is no more."""
        if node.op != "call_function" or self._surplus(node) is None:
            return None
        if self._is_cut(node):
            moved = self._source(first_operand(node))
            return moved and moved.cut(self._start(node), self._surplus(node) or 0)
        if node.target in _PADDINGS:
            return self._padded(node)
        if node.target is aten.cat.default:
            return self._behind_zeros(node)
        return None

    def _source(self, node: fx.Node) -> _Moved | None:
        return _Moved(node) if self._surplus(node) == 0 else self._moved(node)

    def _padded(self, node: fx.Node) -> _Moved | None:
        (axis,), pairs = axes(node, self._symbol), argument(node, "pad")
        at = 2 * (-1 - axis)
        others = [size for index, size in enumerate(pairs) if index not in (at, at + 1)]
        moved = self._source(first_operand(node))
        is_constant = named_arguments(node).get("mode", "constant") == "constant"
        if moved is None or any(others) or argument(node, "value") or not is_constant:
            return None
        before, behind = pairs[at : at + 2]
        if not isinstance(before, int) or not isinstance(behind, int):
            return None
        grown = moved.padded(before) if before >= 0 else moved.cut(-before, moved.end)
        return grown if behind >= 0 else grown.cut(0, self._surplus(node) or 0)

    def _behind_zeros(self, node: fx.Node) -> _Moved | None:
        (axis,), parts = axes(node, self._symbol), arguments(node)[0]
        *zeros, sequence = parts
        moved = self._source(sequence)
        if moved is None or axis_argument(node) != axis or not all(is_filled(part, 0) for part in zeros):
            return None
        counts = [shape(part)[axis] for part in zeros]
        return moved.padded(sum(map(int, counts))) if not any(map(is_symbolic, counts)) else None

    def _convolution(self, node: fx.Node, shift: int) -> fx.Node:
        """Each position's window [positions, channels, kernel] is convolved to a single entry."""
        given = named_arguments(node)
        x, weight, dilation = given["input"], given["weight"], _number(given["dilation"])
        is_one_text = axes(x, self._symbol) == [-1] and len(shape(x)) == 3 and shape(x)[0] == 1
        others = [each for each in node.all_input_nodes if each is not x]
        if not is_one_text or _number(given["stride"]) != 1 or any(axes(each, self._symbol) for each in others):
            raise _NotShifted
        first = shift - _number(given["padding"])
        taps = range(first, first + dilation * int(shape(weight)[-1]), dilation)
        moved = self._source(x)
        if moved is None and _number(given["padding"]):
            raise _NotShifted
        entries = [self._entry(moved, tap) if moved else self._at(x, tap) for tap in taps]
        graph = node.graph
        windows = emit(graph, aten.stack.default, entries, -1, like=node)
        batch = emit(graph, aten.permute.default, windows, [0, 2, 1, 3], like=node)
        channels, kernel = shape(x)[1], shape(weight)[-1]
        batch = emit(graph, aten.reshape.default, batch, [-1, channels, kernel], like=node)
        one = [weight, given["bias"], [1], [0], [1], given["groups"]]
        results = emit(graph, aten.conv1d.default, batch, *one, like=node)
        rows = emit(graph, aten.reshape.default, results, [1, -1, shape(weight)[0]], like=node)
        return emit(graph, aten.transpose.int, rows, -2, -1, like=node)

    def _windows(self, node: fx.Node, shift: int) -> fx.Node:
        x, along, size, step = (named_arguments(node)[name] for name in ("self", "dimension", "size", "step"))
        rank = len(shape(x))
        if axes(x, self._symbol) != [along if along < 0 else along - rank] or step != 1:
            raise _NotShifted
        entries = [self._at(x, shift + entry) for entry in range(size)]
        return emit(node.graph, aten.stack.default, entries, -1, like=node)

    def _entry_by_entry(self, node: fx.Node, shift: int) -> fx.Node:
        operands = [each for each in node.all_input_nodes if axes(each, self._symbol)]
        surplus = self._surplus(node)
        if not operands or surplus is None or any(self._surplus(each) != surplus for each in operands):
            raise _NotShifted
        measured = any(isinstance(each.meta["val"], torch.SymInt) for each in node.all_input_nodes)
        if measured or not is_entry_by_entry(node, self._symbol):
            raise _NotShifted
        known = {each: self._at(each, shift) for each in operands}
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: known.get(each, each))
        return emit(node.graph, node.target, *args, like=node, **kwargs)  # type: ignore[arg-type]

    def _is_cut(self, node: fx.Node) -> bool:
        return node.target is aten.slice.Tensor and axes(node, self._symbol) == [axis_argument(node)]

    def _surplus(self, node: fx.Node) -> int | None:
        """By how much the only axis of the sequence is longer than it; None for what has no such axis, or two."""
        value = node.meta.get("val")
        along = axes(node, self._symbol) if isinstance(value, Tensor) else []
        if len(along) != 1:
            return None
        return _whole(expression_of(shape(node)[along[0]]) - self._symbol)

    def _start(self, node: fx.Node) -> int:
        """Where a slice begins, which must be a number even if it is counted from the end."""
        start, step = argument(node, "start") or 0, argument(node, "step")
        given = expression_of(start.meta["val"] if isinstance(start, fx.Node) else start)
        length = expression_of(shape(first_operand(node))[axis_argument(node)])
        for number in (_whole(given), _whole(given + length)):
            if step == 1 and number is not None and number >= 0:
                return number
        raise _NotShifted

    def insert_registers(self, owner: fx.GraphModule) -> None:
        """One register for each sequence that is asked for with a delay."""
        made: dict[fx.Node, fx.Node] = {}
        for index, (asked_of, asked) in enumerate(self._delayed.items()):
            (axis,) = axes(asked_of, self._symbol)
            source = made.get(asked_of, asked_of)
            *_, first = asked.values()
            with owner.graph.inserting_before(first):
                width = width_of(source, axis)
                rows = rows_of(source, axis, like=source)
                rows = emit(owner.graph, aten.unsqueeze.default, rows, 1, like=source)
                scan = Scan(_register(owner, rows, max(asked), list(asked)), [(max(asked), width)], [1])
                results = call_scan(owner, f"shift_register_{index}", scan, rows, len(asked))
                for delayed, result in zip(asked.values(), results, strict=True):
                    made[delayed] = from_rows(result, source, axis, like=source)
                    delayed.replace_all_uses_with(made[delayed])


def _register(owner: fx.GraphModule, rows: fx.Node, length: int, delays: list[int]) -> fx.GraphModule:
    """A step that takes the last `length` rows [1, length, width] and a new one [1, 1, width].

    It gives the row of each delay, and the last rows with the new one.
    """
    graph = fx.Graph()
    value = rows.meta["val"]
    before, new = graph.placeholder("before"), graph.placeholder("new")
    with value.fake_mode:
        before.meta = {**rows.meta, "val": value.new_empty(1, length, value.shape[-1])}
        new.meta = {**rows.meta, "val": value.new_empty(1, 1, value.shape[-1])}
    window = emit(graph, aten.cat.default, [before, new], 1, like=rows)
    outputs = [
        emit(graph, aten.slice.Tensor, window, 1, length - delay, length - delay + 1, like=rows) for delay in delays
    ]
    after = emit(graph, aten.slice.Tensor, window, 1, 1, length + 1, like=rows)
    graph.output((*outputs, after))
    return graph_module(owner, graph)


def _whole(expression: Any) -> int | None:
    """The number that an expression is at every length, if it is one."""
    return int(expression) if isinstance(expression, int) or expression.is_Integer else None


def _number(given: Any) -> int:
    """The only entry of a convolution's argument."""
    (number,) = given if isinstance(given, list | tuple) else [given]
    if not isinstance(number, int):
        raise _NotShifted
    return number


PASS = Pass(
    "shifts-to-scan",
    "A short convolution or a token shift becomes a shift register, with what was before as its state.",
    lambda program, _: shifts_to_scan(program),
    requires=(WHOLE_TEXT,),
)
