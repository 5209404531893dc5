"""The sequence axis: the proof that a graph, split into chunks, gives what it gives in one run.

The symbol of the length marks the axis in every shape. An operation may only combine values of one position; those
that combine several must be covered by a stateful block. An operation without a rule is not proven: refused.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from sympy import Symbol
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.axis_rules import (
    FILLED,
    MIXES,
    REPEATING,
    RULES,
    SIZE_ARGUMENTS,
    Rule,
    argument,
    axes,
    depends_on,
    pointwise,
)
from autoconvert.analysis.layouts import RELAYOUTS, Layout
from autoconvert.analysis.op_traits import is_pointwise, is_random
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.nodes import shape
from autoconvert.ir.provenance import location

_FLATTENED = "it merges the sequence axis with another"
_LENGTH = "it computes with the length of the sequence"
_UNKNOWN = "no rule knows this operation"


def check_sequence_axis(graph: fx.Graph, symbol: Symbol) -> None:
    """Proves that every operation but fused attention treats positions one by one.

    What the graph returns must be [1, sequence, width].

    Raises:
        Refused: naming the first operation that is not proven, and where in the model it is.
    """
    layouts = check_separate(graph, symbol)
    for result in graph.output_node().all_input_nodes:
        is_whole = axes(result, symbol) == [-2] and len(shape(result)) == 3 and shape(result)[0] == 1
        if not is_whole or layouts.get(result) != Layout():
            sizes = ", ".join(map(str, shape(result)))
            raise Refused(
                f"The model gives [{sizes}] at {location(result)}, not [1, sequence, vocabulary].",
                hint="A decoder gives the logits of every position.",
            )


def check_separate(graph: fx.Graph, symbol: Symbol) -> dict[fx.Node, Layout]:
    """Proves that the entries along the axis of the graph's inputs whose size is `symbol` never meet, wherever it goes.

    Other symbols in the inputs are sizes like any other. An input with several entries for each position has them side
    by side. Gives the layout of the axis in every value that has it; no value may have it twice.

    Raises:
        Refused: naming the first operation that is not proven, and where in the model it is.
    """
    return _Separation(graph, symbol).layouts


def is_entry_by_entry(node: fx.Node, symbol: Symbol) -> bool:
    """Whether an operation makes each entry of the axis that `symbol` decides of the same entry of its operands."""
    rule = _rule(node)
    if rule is None or rule(node, symbol) is not None:
        return False
    return node.target not in RELAYOUTS or RELAYOUTS[node.target](node, Layout(), symbol) == Layout()


class _Separation:
    """The layouts of the axis of one symbol, found in the graph's order."""

    def __init__(self, graph: fx.Graph, symbol: Symbol) -> None:
        self._symbol = symbol
        inputs = graph.find_nodes(op="placeholder")
        self._known = {s for node in inputs for size in _symbolic(shape(node)) for s in size.node.expr.free_symbols}
        self.layouts = {node: Layout(inner=self._input(node)) for node in inputs if axes(node, symbol)}
        for node in graph.nodes:
            if node.op not in ("call_function", "call_module"):
                continue
            layout = self._scan(node) if node.op == "call_module" else self._layout(node)
            if isinstance(layout, str):
                raise Inseparable(
                    f"{location(node)} cannot be split into chunks: {layout}.",
                    hint="A stateful block must cover it: a pattern that matches the block it belongs to.",
                    at=node.name,
                )
            if layout is not None:
                self.layouts[node] = layout

    def _input(self, node: fx.Node) -> int:
        return self._multiple(self._sizes(node.meta["val"])[0]) or 1

    def _axes(self, node: fx.Node) -> list[int]:
        return axes(node, self._symbol)

    def _scan(self, node: fx.Node) -> Layout | str:
        """A scan runs along the first axis of whatever has a value for each position."""
        moving = [operand for operand in node.all_input_nodes if operand in self.layouts]
        first = all(self._axes(operand) == [-len(shape(operand))] for operand in moving)
        return Layout() if first and all(self.layouts[operand].outer == 1 for operand in moving) else MIXES

    def _layout(self, node: fx.Node) -> Layout | str | None:
        """The layout of the axis in the node's results, None without it; or why the operation is not proven."""
        if self._is_length(node):
            return None
        if is_random(node.target):
            return "it draws random numbers, or it is no part of a fused block"
        if any(map(self._is_length, node.all_input_nodes)) and not self._lengths_are_sizes(node):
            return _LENGTH
        operands = [operand for operand in node.all_input_nodes if operand in self.layouts]
        results = _tensors(node)
        if not operands and all(map(self._is_known, results)) and not any(map(self._sizes, results)):
            return None
        if node.target is ops.slots:
            kept = operands and self._axes(operands[0]) == [-2] and self.layouts[operands[0]] == Layout()
            return None if kept else MIXES
        if node.target is operator.getitem and operands[0].op == "call_module":
            is_first = self._axes(node) == [-len(shape(node))]
            inner = self._multiple(self._sizes(node.meta["val"])[0]) if is_first else None
            return MIXES if inner is None else Layout(inner=inner)
        if node.target is operator.getitem:
            return self.layouts[operands[0]] if self._axes(node) else MIXES
        rule = _rule(node)
        if rule is None:
            return _UNKNOWN
        multiples = self._multiples(results)
        if isinstance(multiples, str):
            return multiples
        if node.target in FILLED or (not operands and node.target in REPEATING):
            return Layout(inner=multiples[0])
        if not operands:
            return _LENGTH
        before = {self.layouts[operand] for operand in operands}
        if len(before) > 1 or any(len(self._axes(operand)) > 1 for operand in operands):
            return MIXES
        return rule(node, self._symbol) or self._relayout(node, before.pop(), multiples)

    def _relayout(self, node: fx.Node, before: Layout, multiples: list[int]) -> Layout | str:
        after: Layout | None = before
        if node.target in RELAYOUTS:
            after = RELAYOUTS[node.target](node, before, self._symbol)
        fits = after is not None and all(after.outer * after.inner == multiple for multiple in multiples)
        return after if after is not None and fits else _FLATTENED

    def _multiples(self, results: Iterable[Tensor]) -> list[int] | str:
        """For each result, how many entries its axis has for one position; or what is wrong with it."""
        multiples: list[int] = []
        for result in results:
            sizes = self._sizes(result)
            found = [multiple for size in sizes if (multiple := self._multiple(size)) is not None]
            if len(found) < len(sizes) or not self._is_known(result):
                return "it changes the length of the sequence"
            if len(found) != 1:
                return MIXES
            multiples.extend(found)
        return multiples or MIXES

    def _sizes(self, result: Tensor) -> list[torch.SymInt]:
        """The sizes that the symbol decides."""
        return [size for size in _symbolic(result.shape) if depends_on(size, self._symbol)]

    def _multiple(self, size: torch.SymInt) -> int | None:
        """The number that, times the length, is `size`."""
        ratio = size.node.expr / self._symbol
        return int(ratio) if ratio.is_Integer and ratio > 0 else None

    def _is_known(self, result: Tensor) -> bool:
        """Whether the inputs' sizes alone decide those of the result, and none is one that the code has fixed."""
        symbols = (size.node.expr.free_symbols for size in _symbolic(result.shape))
        return all(found and found <= self._known for found in symbols)

    def _is_length(self, node: fx.Node) -> bool:
        """A number that is known only at run time: the length, or what is computed from it."""
        value: Any = node.meta.get("val")
        is_number = isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)
        return is_number and not value.node.expr.free_symbols <= self._known - {self._symbol}

    def _lengths_are_sizes(self, node: fx.Node) -> bool:
        """Lengths stand only where they say how long the result is."""
        if node.target is torch.ops.aten.sym_size.int:
            return True
        if node.target not in SIZE_ARGUMENTS:
            return False
        sizes: list[fx.Node] = []
        fx.map_arg(argument(node, SIZE_ARGUMENTS[node.target]), sizes.append)
        return all(operand in sizes for operand in node.all_input_nodes if self._is_length(operand))


def _symbolic(sizes: Iterable[int | torch.SymInt]) -> list[torch.SymInt]:
    return [size for size in sizes if isinstance(size, torch.SymInt)]


def _rule(node: fx.Node) -> Rule | None:
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return None
    if node.target in RULES:
        return RULES[node.target]
    return pointwise if is_pointwise(node.target) else None


def _tensors(node: fx.Node) -> list[Tensor]:
    """What the operation gives, as a list of tensors."""
    value = node.meta.get("val")
    return [part for part in (value if isinstance(value, list | tuple) else [value]) if isinstance(part, Tensor)]
