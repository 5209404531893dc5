"""Later columns: what a value for each pair of positions holds where the second position is after the first.

A row may not depend on positions after its own. What combines the columns of a row keeps to that where the later
columns hold what changes nothing: a score so low that its exponential is 0, a 0 in a sum, False in an "or".
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.op_traits import CONTRACTIONS, FILLS, is_movement, is_pointwise
from autoconvert.ir.nodes import arguments, named_arguments
from autoconvert.ops.attention import HIDES

aten = torch.ops.aten


class NoMoreThan(float):
    """A number that no later column exceeds, where columns may hold different ones."""


# A number that all later columns hold, or NoMoreThan one, or None where they may hold anything.
Later = float | bool | None

_SUMS = {aten.add.Tensor, aten.sub.Tensor}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar}
_QUOTIENTS = {aten.div.Tensor, aten.div.Scalar}
_ANDS = {aten.bitwise_and.Tensor, aten.logical_and.default, aten.__and__.Tensor}
_ORS = {aten.bitwise_or.Tensor, aten.logical_or.default, aten.__or__.Tensor}
_CHOICES = {aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar}
# These keep or reverse the order of what they are given, so that what they give at both ends bounds all between.
_ORDERED = {
    aten._to_copy.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.div.Scalar,
    aten.div.Tensor,
    aten.exp.default,
    aten.exp2.default,
    aten.ge.Scalar,
    aten.gt.Scalar,
    aten.le.Scalar,
    aten.lt.Scalar,
    aten.maximum.default,
    aten.minimum.default,
    aten.mul.Scalar,
    aten.mul.Tensor,
    aten.neg.default,
    aten.relu.default,
    aten.sigmoid.default,
    aten.tanh.default,
}
_SOFTMAXES = {aten.softmax.int, aten._softmax.default}


def is_hidden(later: Later) -> bool:
    """Whether a softmax, a maximum or the choice of the largest does not see the later columns."""
    return later is not None and type(later) is not bool and later <= HIDES


def is_nothing(later: Later) -> bool:
    return later is not None and later == 0 and not isinstance(later, NoMoreThan)


# Which later columns change nothing for what combines the columns of a row.
NEUTRAL: dict[Any, Callable[[Later], bool]] = {
    **dict.fromkeys(_SOFTMAXES, is_hidden),
    aten.logsumexp.default: is_hidden,
    aten.amax.default: is_hidden,
    aten.topk.default: is_hidden,
    aten.sum.dim_IntList: is_nothing,
    aten.any.dim: lambda later: later is False,
    aten.all.dim: lambda later: later is True,
    # A sum up to a column has later ones in later columns only.
    aten.cumsum.default: lambda later: True,
}


def of_table(table: Tensor) -> Later:
    """Of a table [..., positions, positions] all of whose rows are known."""
    rows, columns = table.shape[-2:]
    if rows < 2 or columns != rows:
        return None
    later = torch.ones(rows, columns, dtype=torch.bool).triu(1)
    values = table[..., later]
    if values.dtype == torch.bool:
        return bool(values.reshape(-1)[0]) if bool((values == values.reshape(-1)[0]).all()) else None
    highest = float(values.max())
    if highest == float(values.min()):
        return highest
    return NoMoreThan(highest) if highest <= HIDES else None


def of_result(node: fx.Node, column: int, later: Callable[[Any], Later]) -> Later:
    """Of what `node` computes, where `later` says it of each operand: a number holds itself.

    `column` is the axis of the columns in the result, from the end.
    """
    operands = arguments(node)
    if node.target in _SOFTMAXES:
        # Along any other axis, what is hidden is all alike, and shares 1 among itself.
        return 0.0 if operands[1] == column and is_hidden(later(operands[0])) else None
    if node.target in FILLS:
        return _filled(node)
    if node.target in CONTRACTIONS:
        # 0 times anything, and nothing beside it.
        has_bias = node.target is aten.linear.default and named_arguments(node)["bias"] is not None
        return 0.0 if not has_bias and any(is_nothing(later(each)) for each in operands[:2]) else None
    if node.target in _CHOICES:
        return chosen(*map(later, operands))
    if is_movement(node.target) and node.target is not operator.getitem:
        return _alike([later(each) for each in node.all_input_nodes if later(each) is not None], node)
    if not is_pointwise(node.target) or (node.kwargs and node.target is not aten._to_copy.default):
        return None
    known = [later(each) for each in operands]
    if node.target in _SUMS and len(known) == 2:
        return _sum(known[0], known[1], node.target is aten.sub.Tensor)
    if node.target in _PRODUCTS and any(map(is_nothing, known)):
        return 0.0
    if node.target in _QUOTIENTS and is_nothing(known[0]):
        return 0.0
    if node.target in _ANDS and any(each is False for each in known):
        return False
    if node.target in _ORS and any(each is True for each in known):
        return True
    if any(each is None for each in known):
        return None
    return _computed(node, known)


def _alike(known: list[Later], node: fx.Node) -> Later:
    """Of parts that are moved, or put side by side."""
    tensors = [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]
    if len(known) < len(tensors):
        return None
    return functools.reduce(lambda one, other: chosen(None, one, other), known)


def _filled(node: fx.Node) -> Later:
    given = named_arguments(node)
    if "ones" in node.target.__name__:  # type: ignore[union-attr]
        value: Later = 1.0
    elif "zeros" in node.target.__name__:  # type: ignore[union-attr]
        value = 0.0
    else:
        value = given.get("fill_value")
    is_truth = node.meta["val"].dtype == torch.bool
    return bool(value) if is_truth and value is not None else value


def chosen(condition: Later, one: Later, other: Later) -> Later:
    """Of `one` where the condition holds, of `other` elsewhere."""
    if condition is not None:
        return one if condition else other
    is_bound = isinstance(one, NoMoreThan) or isinstance(other, NoMoreThan)
    if one is not None and one == other and not is_bound:
        return one
    if is_hidden(one) and is_hidden(other):
        assert one is not None and other is not None
        return NoMoreThan(max(one, other))
    return None


def _sum(one: Later, other: Later, is_difference: bool) -> Later:
    """A hidden score stays hidden beside one of ordinary size, which may make it a little more or less."""
    is_bound = isinstance(one, NoMoreThan) or isinstance(other, NoMoreThan)
    if one is not None and other is not None and not is_bound:
        return one - other if is_difference else one + other
    hidden = one if is_hidden(one) else None if is_difference else other
    beside = other if hidden is one else one
    if not is_hidden(hidden) or (is_difference and is_hidden(beside)):
        return None
    assert hidden is not None
    return NoMoreThan(hidden)


def _computed(node: fx.Node, operands: list[Later]) -> Later:
    """Of known numbers; of one that is a bound, if the operation keeps an order, by what it gives at both ends.

    A number is known where it is the same well above the bound, which a score of ordinary size may have raised.
    """
    bounds = [each for each in operands if isinstance(each, NoMoreThan)]
    if not bounds:
        return _evaluated(node, operands)
    if len(bounds) > 1 or node.target not in _ORDERED:
        return None

    def at(bound: float) -> Later:
        return _evaluated(node, [bound if isinstance(each, NoMoreThan) else each for each in operands])

    lowest, highest, above = at(-math.inf), at(float(bounds[0])), at(bounds[0] / 2)
    if lowest is None or highest is None or lowest == above:
        return lowest if lowest == above else None
    return NoMoreThan(highest) if lowest <= highest and type(highest) is not bool else None


def _evaluated(node: fx.Node, operands: list[Later]) -> Later:
    sources = [each.meta["val"].dtype if isinstance(each, fx.Node) else None for each in arguments(node)]
    given = [
        torch.tensor(value, dtype=dtype) if dtype is not None else value
        for value, dtype in zip(operands, sources, strict=True)
    ]
    value = node.target(*given, **node.kwargs)  # type: ignore[operator]
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else None
