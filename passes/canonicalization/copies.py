"""Copies, casts and neutral operands: what changes no value goes."""

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, overload, same_shape
from autoconvert.rewrite.rule import rule

aten = torch.ops.aten

_NEUTRAL = {
    aten.mul.Tensor: 1,
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.div.Tensor: 1,
    aten.pow.Tensor_Scalar: 1,
}


@rule(
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
)
def _drop_copy(node: fx.Node) -> fx.Node | None:
    return first_operand(node)


@rule(aten.dropout.default)
def _drop_idle_dropout(node: fx.Node) -> fx.Node | None:
    is_training = arguments(node)[2:3] == (True,)
    return None if is_training else first_operand(node)


@rule(
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten.type_as.default,
)
def _drop_same_type_cast(node: fx.Node) -> fx.Node | None:
    source = first_operand(node)
    if source.meta["val"].dtype == node.meta["val"].dtype:
        return source
    if node.target is aten._to_copy.default and set(node.kwargs) == {"dtype"}:
        return None
    return emit(node.graph, aten._to_copy.default, source, dtype=node.meta["val"].dtype, like=node)


@rule(
    aten.expand.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.broadcast_to.default,
)
def _drop_without_effect(node: fx.Node) -> fx.Node | None:
    """Same input and output shape of an operation that can only select or repeat: it did neither."""
    return first_operand(node) if same_shape(node, first_operand(node)) else None


@rule(*_NEUTRAL)
def _drop_neutral_arithmetic(node: fx.Node) -> fx.Node | None:
    if len(arguments(node)) < 2 or node.kwargs:
        return None
    source, other = arguments(node)
    is_neutral = isinstance(other, int | float) and not isinstance(other, bool) and other == _NEUTRAL[overload(node)]
    return source if is_neutral and isinstance(source, fx.Node) and same_type(node, source) else None


def same_type(a: fx.Node, b: fx.Node) -> bool:
    """Whether two values have the same shape and dtype."""
    return same_shape(a, b) and a.meta["val"].dtype == b.meta["val"].dtype


RULES = (_drop_copy, _drop_idle_dropout, _drop_same_type_cast, _drop_without_effect, _drop_neutral_arithmetic)
