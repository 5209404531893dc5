"""Choices between values: what is filled in comes first, and a sum weighted with zeros and ones is a choice."""

from typing import Any

import torch
from torch import fx

from autoconvert.analysis.constants import held_value
from autoconvert.analysis.op_traits import is_lookup, is_movement
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, shape
from autoconvert.passes.canonicalization.arithmetic import constant_number, is_float
from autoconvert.rewrite.rule import rule

aten = torch.ops.aten


# These put zeros in the place of some entries.
_TRIANGLES = {aten.tril.default, aten.triu.default}
# What fills as an operation does that has a tensor whose type is taken.
_MADE: dict[Any, torch._ops.OpOverload] = {
    aten.new_full.default: aten.full.default,
    aten.new_ones.default: aten.ones.default,
    aten.new_zeros.default: aten.zeros.default,
}
_ZEROS_OR_ONES = {aten.ones.default, aten.ones_like.default, aten.zeros.default, aten.zeros_like.default}


@rule(aten.masked_fill.Scalar)
def _filling_is_where(node: fx.Node) -> fx.Node | None:
    x, mask, value = arguments(node)
    return _where(node, mask, _fill(node, value), x)


@rule(aten.masked_fill.Tensor)
def _filling_with_a_value_is_where(node: fx.Node) -> fx.Node | None:
    x, mask, value = arguments(node)
    return _where(node, mask, value, x) if _same_dtype(value, node) else None


def _fill(node: fx.Node, value: Any) -> fx.Node:
    dtype = node.meta["val"].dtype
    with node.meta["val"].fake_mode:
        number = float(value) if dtype.is_floating_point else value
        return emit(node.graph, aten.scalar_tensor.default, number, dtype=dtype, like=node)


def _where(node: fx.Node, condition: fx.Node, a: fx.Node, b: fx.Node) -> fx.Node:
    return emit(node.graph, aten.where.self, condition, a, b, like=node)


@rule(aten.full.default)
def _full_is_number(node: fx.Node) -> fx.Node | None:
    """`full` of no axes."""
    if list(arguments(node)[0]) == [] and is_float(node):
        return _fill(node, arguments(node)[1])
    return None


@rule(aten.new_full.default, aten.new_ones.default, aten.new_zeros.default)
def _filled_pairs_read_nothing(node: fx.Node) -> fx.Node | None:
    """What is filled for pairs of positions takes no more than its type from activations."""
    if sum(map(is_symbolic, shape(node))) < 2:
        return None
    given = arguments(node)[1:3] if node.target is aten.new_full.default else arguments(node)[1:2]
    return emit(node.graph, _MADE[node.target], *given, dtype=node.meta["val"].dtype, like=node)


@rule(aten.where.self)
def _filled_comes_first(node: fx.Node) -> fx.Node | None:
    """where(mask, x, number) is where(not mask, number, x); a constant without axes is a number."""
    condition, *values = arguments(node)
    numbers = [constant_number(value) for value in values]
    a, b = (
        value if number is None or not _same_dtype(value, node) else _fill(node, number)
        for value, number in zip(values, numbers, strict=True)
    )
    if _is_number(b) and not _is_number(a):
        opposite = emit(node.graph, aten.logical_not.default, condition, like=node)
        return _where(node, opposite, b, a)
    return _where(node, condition, a, b) if [a, b] != values else None


def _same_dtype(a: fx.Node, b: fx.Node) -> bool:
    return bool(a.meta["val"].dtype == b.meta["val"].dtype)


def _is_number(value: fx.Node) -> bool:
    return value.target is aten.scalar_tensor.default


@rule(aten.add.Tensor)
def _blend_is_where(node: fx.Node) -> fx.Node | None:
    """x · b + y · (1 − b) is where(b = 0, y, x) if b is known to be zeros and ones; x and y are finite."""
    if node.kwargs or not all(map(is_float, arguments(node))):
        return None
    for first, second in (arguments(node), arguments(node)[::-1]):
        for x, share in _factors(first):
            for y, rest in _factors(second):
                if _is_rest(rest, share) and is_float(x) and _same_dtype(x, node) and _is_zeros_and_ones(share):
                    never = emit(node.graph, aten.eq.Scalar, share, 0, like=node)
                    return _where(node, never, y if isinstance(y, fx.Node) else _fill(node, y), x)
    return None


def _factors(product: fx.Node) -> list[tuple[Any, Any]]:
    a, b = arguments(product) if product.target is aten.mul.Tensor else (None, None)
    return [(a, b), (b, a)]


def _is_rest(value: Any, share: Any) -> bool:
    """Whether `value` is 1 − share."""
    is_difference = isinstance(value, fx.Node) and value.target is aten.sub.Tensor and not value.kwargs
    return is_difference and arguments(value)[0] == 1 and arguments(value)[1] is share


def _is_zeros_and_ones(node: fx.Node) -> bool:
    """What truth is cast to, or a constant that is looked at; in whatever shape."""
    seen: set[fx.Node] = set()
    pending = [node]
    while pending:
        each = pending.pop()
        if is_movement(each.target) or is_lookup(each.target) or each.target in _TRIANGLES:
            fx.map_arg(each.args[0], pending.append)
        elif not _is_made_of_zeros_and_ones(each):
            return False
        seen.add(each)
        pending = [node for node in pending if node not in seen]
    return True


def _is_made_of_zeros_and_ones(node: fx.Node) -> bool:
    if node.target is aten._to_copy.default:
        return bool(first_operand(node).meta["val"].dtype == torch.bool)
    value = held_value(node)
    if value is not None:
        return bool(((value == 0) | (value == 1)).all())
    return node.target in _ZEROS_OR_ONES


@rule(aten.bitwise_not.default, aten.logical_not.default)
def _negation_of_truth(node: fx.Node) -> fx.Node | None:
    """`~` of a bool is `logical_not`, and twice is nothing."""
    source = first_operand(node)
    if source.meta["val"].dtype != torch.bool:
        return None
    if source.target is aten.logical_not.default and first_operand(source).meta["val"].dtype == torch.bool:
        return first_operand(source)
    if node.target is aten.bitwise_not.default:
        return emit(node.graph, aten.logical_not.default, source, like=node)
    return None


RULES = (
    _filling_is_where,
    _filling_with_a_value_is_where,
    _full_is_number,
    _filled_pairs_read_nothing,
    _filled_comes_first,
    _blend_is_where,
    _negation_of_truth,
)
