"""The sequence axis: the proof that a graph, split into chunks, gives what it gives in one run.

The symbolic length marks the axis in every shape. An operation may only combine values of one position; those
that combine several must be covered by a stateful block. An operation without a rule is not proven: refused.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.rewriting import is_symbolic, shape, where

aten = torch.ops.aten

# A rule gives the reason why the operation is not proven, or None.
Rule = Callable[[fx.Node], str | None]

_MIXES = "it combines values of several positions"
_FLATTENED = "it merges the sequence axis with another"
_LENGTH = "it computes with the length of the sequence"
_UNKNOWN = "no rule knows this operation"


def check_sequence_axis(graph: fx.Graph) -> None:
    """Proves that every operation but recognised attention treats positions one by one.

    Every value must have the sequence as one axis at most, of the whole length, and get it from an operand;
    what the graph returns must be [1, sequence, width].

    Raises:
        Refused: naming the first operation that is not proven, and where in the model it is.
    """
    lengths = {str(size) for node in graph.find_nodes(op="placeholder") for size in shape(node) if is_symbolic(size)}
    for node in graph.nodes:
        reason = _reason(node, lengths) if node.op == "call_function" else None
        if reason:
            raise Refused(
                f"{where(node)} cannot be split into chunks: {reason}.",
                hint="A stateful block must cover it: a pattern that recognises the block it belongs to.",
            )
    for result in graph.output_node().all_input_nodes:
        if axes(result) != [-2] or len(shape(result)) != 3 or shape(result)[0] != 1:
            sizes = ", ".join(map(str, shape(result)))
            raise Refused(
                f"The model gives [{sizes}] at {where(result)}, not [1, sequence, vocabulary].",
                hint="A decoder gives the logits of every position.",
            )


def axes(node: fx.Node) -> list[int]:
    """The axes, from the end, whose size depends on the length."""
    sizes = shape(node)
    return [axis - len(sizes) for axis, size in enumerate(sizes) if is_symbolic(size)]


def _reason(node: fx.Node, lengths: set[str]) -> str | None:
    if _is_length(node):
        return None
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return "it draws random numbers, or it is no part of a recognised block"
    if any(map(_is_length, node.all_input_nodes)) and node.target not in _TAKE_SIZES:
        return _LENGTH
    values = [node, *node.all_input_nodes]
    if not any(map(axes, values)):
        return None
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return _UNKNOWN
    rule = _rule(node)
    if rule is None:
        return _UNKNOWN
    if any(str(size) not in lengths for value in values for size in shape(value) if is_symbolic(size)):
        return "it changes the length of the sequence"
    if any(len(axes(value)) > 1 for value in values) or not axes(node):
        return _MIXES
    if not any(map(axes, node.all_input_nodes)):
        return _LENGTH
    return rule(node)


def _rule(node: fx.Node) -> Rule | None:
    if node.target in _RULES:
        return _RULES[node.target]
    is_pointwise = torch.Tag.pointwise in node.target.tags  # type: ignore[union-attr]
    return _pointwise if is_pointwise else None


def _is_length(node: fx.Node) -> bool:
    """A number that is known only at run time: the length, or what is computed from it."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def _argument(node: fx.Node, name: str) -> Any:
    """An argument by its name in the operation's schema, its default where it is not given."""
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            given = node.args[index : index + 1]
            return given[0] if given else node.kwargs.get(name, argument.default_value)
    raise KeyError(f"{node.target} has no argument {name}")


def _axes_argument(node: fx.Node, rank: int) -> Iterable[int]:
    """The axes in the argument `dim`, from the end; none given means all, as reductions have it."""
    over = _argument(node, "dim")
    given = over if isinstance(over, list | tuple) else [] if over is None else [over]
    return [axis - rank if axis >= 0 else axis for axis in given] or range(-rank, 0)


def _operand(node: fx.Node, index: int = 0) -> fx.Node:
    operand = node.args[index]
    assert isinstance(operand, fx.Node)
    return operand


def _pointwise(node: fx.Node) -> str | None:
    """Broadcasting aligns axes from the end: the sequence must be the same one everywhere."""
    return None if all(axes(n) in ([], axes(node)) for n in node.all_input_nodes) else _MIXES


def _along_another(node: fx.Node) -> str | None:
    """The operation works along the axes in `dim`, which must not be the sequence."""
    over = _axes_argument(node, len(shape(_operand(node))))
    return _MIXES if set(over) & set(axes(_operand(node))) else None


def _last_axis(node: fx.Node) -> str | None:
    """Works on vectors along the last axis of the first operand, with weights that have no sequence."""
    weights = [n for n in node.all_input_nodes if n is not node.args[0]]
    return _MIXES if -1 in axes(_operand(node)) or any(map(axes, weights)) else None


def _rows(node: fx.Node) -> str | None:
    """Rows of a table that has no sequence, picked by what has."""
    return _MIXES if axes(_operand(node)) else None


def _matrix_product(node: fx.Node) -> str | None:
    left, right = axes(_operand(node, 0)), axes(_operand(node, 1))
    return _MIXES if -1 in left or -2 in right or (left and right) else None


def _moved(node: fx.Node) -> str | None:
    """Axes move or appear and carry the sequence with them."""
    return None


def _reshape(node: fx.Node) -> str | None:
    """The sequence stays one axis, with as much before it as it had."""
    (before,), (after,) = axes(_operand(node)), axes(node)
    return None if _size(shape(_operand(node))[:before]) == _size(shape(node)[:after]) else _FLATTENED


def _size(sizes: tuple[int | torch.SymInt, ...]) -> int:
    return math.prod(int(size) for size in sizes)


def _concatenation(node: fx.Node) -> str | None:
    same = all(axes(part) == axes(node) for part in node.all_input_nodes)
    over = _axes_argument(node, len(shape(node)))
    return None if same and not set(over) & set(axes(node)) else _MIXES


def _attention(node: fx.Node) -> str | None:
    if any(axes(_operand(node, index)) != [-2] for index in range(3)):
        return "query, key and value are not [batch, heads, sequence, width]"
    proven = _argument(node, "causal") and _argument(node, "mask") is None
    return None if proven else "its mask is not proven causal"


def _rotary(node: fx.Node) -> str | None:
    return None if all(axes(operand) in ([-2], []) for operand in node.all_input_nodes) else _MIXES


# The length in their arguments only says how long the result is, which its shape shows.
_TAKE_SIZES = {aten.reshape.default, aten.expand.default, aten.sym_size.int}

_RULES: dict[torch._ops.OpOverload, Rule] = {
    aten._to_copy.default: _pointwise,
    aten.expand.default: _pointwise,
    aten.full_like.default: _pointwise,
    aten.linear.default: _last_axis,
    aten.embedding.default: _rows,
    aten.index_select.default: _rows,
    aten.matmul.default: _matrix_product,
    aten.cat.default: _concatenation,
    aten.reshape.default: _reshape,
    aten.transpose.int: _moved,
    aten.permute.default: _moved,
    aten.unsqueeze.default: _moved,
    aten.squeeze.dim: _moved,
    aten.slice.Tensor: _along_another,
    aten.select.int: _along_another,
    aten.mean.dim: _along_another,
    aten.sum.dim_IntList: _along_another,
    aten.amax.default: _along_another,
    aten.softmax.int: _along_another,
    aten._softmax.default: _along_another,
    aten.log_softmax.int: _along_another,
    ops.rms_norm: _last_axis,
    ops.layer_norm: _last_axis,
    ops.gated_feed_forward: _last_axis,
    ops.rotary: _rotary,
    ops.attention: _attention,
}
