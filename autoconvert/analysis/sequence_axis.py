"""The sequence axis: the proof that a graph, split into chunks, gives what it gives in one run.

The symbolic length marks the axis in every shape. An operation may only combine values of one position; those
that combine several must be covered by a stateful block. An operation without a rule is not proven: refused.
"""

import operator
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from autoconvert.analysis.axis_rules import (
    FILLED,
    MIXES,
    RELAYOUTS,
    REPEATING,
    RULES,
    SIZE_ARGUMENTS,
    Layout,
    Rule,
    argument,
    axes,
    pointwise,
)
from autoconvert.analysis.op_traits import is_pointwise, is_random
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.nodes import shape
from autoconvert.ir.provenance import location

_FLATTENED = "it merges the sequence axis with another"
_LENGTH = "it computes with the length of the sequence"
_UNKNOWN = "no rule knows this operation"


def check_sequence_axis(graph: fx.Graph) -> None:
    """Proves that every operation but recognised attention treats positions one by one.

    What the graph returns must be [1, sequence, width].

    Raises:
        Refused: naming the first operation that is not proven, and where in the model it is.
    """
    layouts = check_separate(graph)
    for result in graph.output_node().all_input_nodes:
        is_whole = axes(result) == [-2] and len(shape(result)) == 3 and shape(result)[0] == 1
        if not is_whole or layouts.get(result) != Layout():
            sizes = ", ".join(map(str, shape(result)))
            raise Refused(
                f"The model gives [{sizes}] at {location(result)}, not [1, sequence, vocabulary].",
                hint="A decoder gives the logits of every position.",
            )


def check_separate(graph: fx.Graph) -> dict[fx.Node, Layout]:
    """Proves that the entries along the symbolic axis of the graph's inputs never meet, wherever the axis goes.

    An input with several entries for each position has them side by side. Gives the layout of the axis in every
    value that has it; no value may have it twice.

    Raises:
        Refused: naming the first operation that is not proven, and where in the model it is.
    """
    inputs = graph.find_nodes(op="placeholder")
    sizes = {node: _symbolic(shape(node)) for node in inputs}
    lengths = {str(symbol) for found in sizes.values() for size in found for symbol in size.node.expr.free_symbols}
    layouts = {node: Layout(inner=_multiple(found[0], lengths) or 1) for node, found in sizes.items() if found}
    for node in graph.nodes:
        if node.op not in ("call_function", "call_module"):
            continue
        is_recurrence = node.op == "call_module"
        layout = _recurrence(node, layouts) if is_recurrence else _layout(node, layouts, lengths)
        if isinstance(layout, str):
            raise Inseparable(
                f"{location(node)} cannot be split into chunks: {layout}.",
                hint="A stateful block must cover it: a pattern that recognises the block it belongs to.",
                at=node.name,
            )
        if layout is not None:
            layouts[node] = layout
    return layouts


def _recurrence(node: fx.Node, layouts: dict[fx.Node, Layout]) -> Layout | str:
    """A recurrence runs along the first axis of whatever has a value for each position."""
    moving = [operand for operand in node.all_input_nodes if operand in layouts]
    along = all(axes(operand) == [-len(shape(operand))] and layouts[operand].outer == 1 for operand in moving)
    return Layout() if along else MIXES


def _layout(node: fx.Node, layouts: dict[fx.Node, Layout], lengths: set[str]) -> Layout | str | None:
    """The layout of the axis in the node's results, None without it; or why the operation is not proven."""
    if _is_length(node):
        return None
    if is_random(node.target):
        return "it draws random numbers, or it is no part of a recognised block"
    if any(map(_is_length, node.all_input_nodes)) and not _lengths_are_sizes(node):
        return _LENGTH
    operands = [operand for operand in node.all_input_nodes if operand in layouts]
    results = _tensors(node)
    if not operands and not any(_symbolic(result.shape) for result in results):
        return None
    if node.target is operator.getitem and operands[0].op == "call_module":
        inner = _multiple(shape(node)[0], lengths) if axes(node) == [-len(shape(node))] else None  # type: ignore[arg-type]
        return MIXES if inner is None else Layout(inner=inner)
    if node.target is operator.getitem:
        return layouts[operands[0]] if axes(node) else MIXES
    rule = _rule(node)
    if rule is None:
        return _UNKNOWN
    multiples = _multiples(results, lengths)
    if isinstance(multiples, str):
        return multiples
    if node.target in FILLED or (not operands and node.target in REPEATING):
        return Layout(inner=multiples[0])
    if not operands:
        return _LENGTH
    before = {layouts[operand] for operand in operands}
    if len(before) > 1 or any(len(axes(operand)) > 1 for operand in operands):
        return MIXES
    return rule(node) or _relayout(node, before.pop(), multiples)


def _relayout(node: fx.Node, before: Layout, multiples: list[int]) -> Layout | str:
    after = RELAYOUTS[node.target](node, before) if node.target in RELAYOUTS else before
    fits = after is not None and all(after.outer * after.inner == multiple for multiple in multiples)
    return after if after is not None and fits else _FLATTENED


def _multiples(results: Iterable[Tensor], lengths: set[str]) -> list[int] | str:
    """For each result, how many entries its axis has for one position; or what is wrong with it."""
    multiples: list[int] = []
    for result in results:
        sizes = _symbolic(result.shape)
        found = [multiple for size in sizes if (multiple := _multiple(size, lengths)) is not None]
        if len(found) < len(sizes):
            return "it changes the length of the sequence"
        if len(found) != 1:
            return MIXES
        multiples.extend(found)
    return multiples or MIXES


def _symbolic(sizes: Iterable[int | torch.SymInt]) -> list[torch.SymInt]:
    return [size for size in sizes if isinstance(size, torch.SymInt)]


def _multiple(size: torch.SymInt, lengths: set[str]) -> int | None:
    """The number that, times the length, is `size`."""
    expression = size.node.expr
    if len(lengths) != 1 or len(expression.free_symbols) != 1:
        return None
    (symbol,) = expression.free_symbols
    ratio = expression / symbol
    return int(ratio) if str(symbol) in lengths and ratio.is_Integer and ratio > 0 else None


def _rule(node: fx.Node) -> Rule | None:
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return None
    if node.target in RULES:
        return RULES[node.target]
    return pointwise if is_pointwise(node.target) else None


def _lengths_are_sizes(node: fx.Node) -> bool:
    """Lengths stand only where they say how long the result is."""
    if node.target is torch.ops.aten.sym_size.int:
        return True
    if node.target not in SIZE_ARGUMENTS:
        return False
    sizes: list[fx.Node] = []
    fx.map_arg(argument(node, SIZE_ARGUMENTS[node.target]), sizes.append)
    return all(operand in sizes for operand in node.all_input_nodes if _is_length(operand))


def _is_length(node: fx.Node) -> bool:
    """A number that is known only at run time: the length, or what is computed from it."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def _tensors(node: fx.Node) -> list[Tensor]:
    """What the operation gives, as a list of tensors."""
    value = node.meta.get("val")
    return [part for part in (value if isinstance(value, list | tuple) else [value]) if isinstance(part, Tensor)]
