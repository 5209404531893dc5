"""The sequence axis: the proof that a graph, split into chunks, gives what it gives in one run.

The symbolic length marks the axis in every shape. An operation may only combine values of one position; those that
combine several must be covered by a stateful block. An operation without a rule here is not proven, so refused.
"""

from collections.abc import Callable

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


def check_sequence_axis(graph: fx.Graph) -> None:
    """Proves that every operation but recognised attention treats positions one by one.

    Raises:
        Refused: naming the first operation that is not proven, and where in the model it is.
    """
    for node in graph.nodes:
        if node.op != "call_function" or not _sees_sequence(node):
            continue
        reason = _reason(node)
        if reason:
            raise Refused(
                f"{where(node)} cannot be split into chunks: {reason}.",
                hint="A stateful block must cover it: a pattern that recognises the block it belongs to.",
            )


def axes(node: fx.Node) -> list[int]:
    """The axes, from the end, whose size depends on the length."""
    sizes = shape(node)
    return [axis - len(sizes) for axis, size in enumerate(sizes) if is_symbolic(size)]


def _sees_sequence(node: fx.Node) -> bool:
    return bool(axes(node)) or any(axes(operand) for operand in node.all_input_nodes)


def _reason(node: fx.Node) -> str | None:
    if isinstance(node.meta["val"], torch.SymInt):
        return None
    if not isinstance(node.target, torch._ops.OpOverload):
        return "no rule knows this operation"
    if len(axes(node)) > 1 or any(len(axes(operand)) > 1 for operand in node.all_input_nodes):
        return _MIXES
    if node.target in _RULES:
        return _RULES[node.target](node)
    if torch.Tag.pointwise in node.target.tags or node.target in _POINTWISE:
        return _pointwise(node)
    return "no rule knows this operation"


def _operand(node: fx.Node, index: int = 0) -> fx.Node:
    operand = node.args[index]
    assert isinstance(operand, fx.Node)
    return operand


def _pointwise(node: fx.Node) -> str | None:
    """Broadcasting aligns axes from the end: the sequence must be the same one everywhere."""
    if any(isinstance(operand.meta["val"], torch.SymInt) for operand in node.all_input_nodes):
        return "it computes with the length of the sequence"
    found = {axis for operand in node.all_input_nodes for axis in axes(operand)}
    return None if found == set(axes(node)) and len(found) <= 1 else _MIXES


def _not_over(*axis_arguments: int) -> Rule:
    """The operation works along the axes in these arguments, which must not be the sequence."""

    def rule(node: fx.Node) -> str | None:
        sequence = axes(_operand(node))
        rank = len(shape(_operand(node)))
        for index in axis_arguments:
            over = node.args[index] if len(node.args) > index else node.kwargs.get("dim", list(range(-rank, 0)))
            if any(axis in sequence for axis in (over if isinstance(over, list | tuple) else [over])):
                return _MIXES
        return None

    return rule


def _last_axis(node: fx.Node) -> str | None:
    """Works on vectors along the last axis of the first operand, with weights that have no sequence."""
    weights = [n for n in node.all_input_nodes if n is not node.args[0]]
    if -1 in axes(_operand(node)) or any(axes(weight) for weight in weights):
        return _MIXES
    return None


def _embedding(node: fx.Node) -> str | None:
    return _MIXES if axes(_operand(node, 0)) else None


def _rows(node: fx.Node) -> str | None:
    """index_select: rows of a table by position."""
    return _MIXES if axes(_operand(node, 0)) else None


def _matrix_product(node: fx.Node) -> str | None:
    left, right = axes(_operand(node, 0)), axes(_operand(node, 1))
    if -1 in left or -2 in right or (left and right):
        return _MIXES
    return None


def _moved(node: fx.Node) -> str | None:
    """Axes that move or appear carry the sequence with them: the output still has exactly one."""
    return None if len(axes(node)) == 1 else _MIXES


def _reshape(node: fx.Node) -> str | None:
    """The sequence stays one axis, with as much before it as it had."""
    before, after = axes(_operand(node)), axes(node)
    if len(before) != 1 or len(after) != 1:
        return _MIXES
    source, target = shape(_operand(node)), shape(node)
    if str(source[before[0]]) != str(target[after[0]]):
        return _FLATTENED
    return None if _product(source[: before[0]]) == _product(target[: after[0]]) else _FLATTENED


def _product(sizes: tuple[int | torch.SymInt, ...]) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


def _attention(node: fx.Node) -> str | None:
    query, key, value, mask, _, causal, *_ = node.args
    sequences = [axes(operand) for operand in (query, key, value)]  # type: ignore[arg-type]
    if sequences != [[-2], [-2], [-2]]:
        return "query, key and value are not [batch, heads, sequence, width]"
    return None if causal and mask is None else "its mask is not proven causal"


def _rotary(node: fx.Node) -> str | None:
    return None if all(axes(operand) in ([-2], []) for operand in node.all_input_nodes) else _MIXES


def _concatenation(node: fx.Node) -> str | None:
    parts = node.args[0]
    over = node.args[1] if len(node.args) > 1 else -len(shape(node))
    assert isinstance(parts, list | tuple)
    return _MIXES if any(over in axes(part) for part in parts) or not _same_axes(node, parts) else None


def _same_axes(node: fx.Node, parts: list[fx.Node] | tuple[fx.Node, ...]) -> bool:
    return all(axes(part) == axes(node) for part in parts)


_POINTWISE = {aten._to_copy.default, aten.where.self, aten.expand.default, aten.full_like.default}

_RULES: dict[torch._ops.OpOverload, Rule] = {
    aten.linear.default: _last_axis,
    aten.embedding.default: _embedding,
    aten.index_select.default: _rows,
    aten.matmul.default: _matrix_product,
    aten.cat.default: _concatenation,
    aten.reshape.default: _reshape,
    aten.transpose.int: _moved,
    aten.permute.default: _moved,
    aten.unsqueeze.default: _moved,
    aten.squeeze.dim: _moved,
    aten.slice.Tensor: _not_over(1),
    aten.select.int: _not_over(1),
    aten.mean.dim: _not_over(1),
    aten.sum.dim_IntList: _not_over(1),
    aten.amax.default: _not_over(1),
    aten.softmax.int: _not_over(1),
    aten._softmax.default: _not_over(1),
    aten.log_softmax.int: _not_over(1),
    ops.rms_norm: _last_axis,
    ops.layer_norm: _last_axis,
    ops.gated_feed_forward: _last_axis,
    ops.rotary: _rotary,
    ops.attention: _attention,
}
