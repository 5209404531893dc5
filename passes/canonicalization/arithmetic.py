"""Arithmetic: powers, roots, divisions, signs and bounds."""

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.constants import held_value
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, named_arguments, overload, shape
from autoconvert.passes.canonicalization.copies import same_type
from autoconvert.rewrite.rule import rounding_rule, rule

aten = torch.ops.aten

_WITH_A_NUMBER = {
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
}


_SUMS = {
    aten.add.Tensor: aten.add.Tensor,
    aten.sub.Tensor: aten.sub.Tensor,
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
}


@rule(*_SUMS)
def _factor_is_product(node: fx.Node) -> fx.Node | None:
    """add(x, y, alpha=c) is x + c · y."""
    given = named_arguments(node)
    x, y, factor = given["self"], given["other"], given["alpha"]
    if isinstance(factor, int) and factor == 1 and not isinstance(factor, bool):
        return None
    if isinstance(y, fx.Node):
        scaled = emit(node.graph, aten.mul.Tensor, y, factor, like=node)
        # What is no product of its own type, as of truths, PyTorch computes in the type of the sum.
        if scaled.meta["val"].dtype not in (y.meta["val"].dtype, node.meta["val"].dtype):
            return None
    else:
        scaled = y * factor
    return emit(node.graph, _SUMS[overload(node)], x, scaled, like=node)


@rule(*_WITH_A_NUMBER)
def _number_is_operand(node: fx.Node) -> fx.Node | None:
    """Of an operation with a number there is one form."""
    return None if node.kwargs else emit(node.graph, _WITH_A_NUMBER[overload(node)], *arguments(node), like=node)


@rule(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
def _constant_is_number(node: fx.Node) -> fx.Node | None:
    """A constant without axes is a number."""
    if node.kwargs or not isinstance(arguments(node)[0], fx.Node):
        return None
    x, other = arguments(node)
    if node.target is not aten.div.Tensor and constant_number(x) is not None and is_float(other):
        x, other = other, x
        if node.target is aten.sub.Tensor:
            return None
    number = constant_number(other)
    if number is None or not same_type(node, x):
        return None
    return emit(node.graph, overload(node), x, number, like=node)


def constant_number(value: Any) -> float | None:
    """The number that a constant of the module without axes is, or None."""
    if not isinstance(value, fx.Node) or not is_float(value) or shape(value):
        return None
    number = held_value(value)
    return None if number is None else float(number)


@rule(aten.square.default, aten.pow.Tensor_Scalar)
def _square_is_product(node: fx.Node) -> fx.Node | None:
    is_square = node.target is aten.square.default or arguments(node)[1] == 2
    if is_square and same_type(node, first_operand(node)):
        return emit(node.graph, aten.mul.Tensor, first_operand(node), first_operand(node), like=node)
    return None


@rounding_rule(aten.pow.Tensor_Scalar)
def _root_is_sqrt(node: fx.Node) -> fx.Node | None:
    """The same but for −0 and −∞, which no root of a model is taken of."""
    if arguments(node)[1] == 0.5 and is_float(first_operand(node)):
        return emit(node.graph, aten.sqrt.default, first_operand(node), like=node)
    return None


@rounding_rule(aten.pow.Tensor_Scalar)
def _inverse_root_is_rsqrt(node: fx.Node) -> fx.Node | None:
    if arguments(node)[1] == -0.5:
        return emit(node.graph, aten.rsqrt.default, first_operand(node), like=node)
    return None


@rounding_rule(aten.reciprocal.default)
def _inverse_of_root_is_rsqrt(node: fx.Node) -> fx.Node | None:
    if _is_root(arguments(node)[0]):
        return emit(node.graph, aten.rsqrt.default, first_operand(arguments(node)[0]), like=node)
    return None


@rounding_rule(aten.div.Tensor)
def _division_by_root_is_product(node: fx.Node) -> fx.Node | None:
    """x / sqrt(y) = x · rsqrt(y)"""
    if node.kwargs or not _is_root(arguments(node)[1]):
        return None
    dividend, divisor = arguments(node)
    root = emit(node.graph, aten.rsqrt.default, first_operand(divisor), like=node)
    return emit(node.graph, aten.mul.Tensor, dividend, root, like=node)


@rounding_rule(aten.div.Tensor)
def _division_by_number_is_product(node: fx.Node) -> fx.Node | None:
    """x / c = x · (1 / c)"""
    if node.kwargs:
        return None
    dividend, divisor = arguments(node)
    if isinstance(divisor, int | float) and divisor != 0 and is_float(dividend):
        return emit(node.graph, aten.mul.Tensor, dividend, 1.0 / divisor, like=node)
    return None


def _is_root(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.target is aten.sqrt.default


@rule(aten.mul.Tensor)
def _minus_one_times_is_negation(node: fx.Node) -> fx.Node | None:
    if not isinstance(arguments(node)[0], fx.Node):
        return None
    x, factor = arguments(node)
    is_minus_one = isinstance(factor, int | float) and factor == -1
    return emit(node.graph, aten.neg.default, x, like=node) if is_minus_one and same_type(node, x) else None


@rule(aten.add.Tensor)
def _adding_the_negative_is_subtraction(node: fx.Node) -> fx.Node | None:
    """a + (−b) and (−b) + a are a − b."""
    if node.kwargs or not all(map(is_float, arguments(node))):
        return None
    a, b = arguments(node)
    for x, negative in ((a, b), (b, a)):
        if negative.target is aten.neg.default:
            return emit(node.graph, aten.sub.Tensor, x, first_operand(negative), like=node)
    return None


@rounding_rule(aten.linalg_vector_norm.default)
def _norm_is_root_of_sum(node: fx.Node) -> fx.Node | None:
    """The Euclidean norm along given axes, as F.normalize takes it."""
    if "dtype" in node.kwargs:
        return None
    x = first_operand(node)
    given = dict(zip(("ord", "dim", "keepdim"), arguments(node)[1:], strict=False)) | dict(node.kwargs)
    if given.get("ord", 2) != 2 or not given.get("dim") or not is_float(x):
        return None
    squares = emit(node.graph, aten.mul.Tensor, x, x, like=node)
    total = emit(node.graph, aten.sum.dim_IntList, squares, given["dim"], bool(given.get("keepdim")), like=node)
    return emit(node.graph, aten.sqrt.default, total, like=node)


@rounding_rule(aten.log_sigmoid.default)
def _log_sigmoid_is_softplus(node: fx.Node) -> fx.Node | None:
    """log σ(x) = −softplus(−x)"""
    return _minus_softplus_of_minus(node, first_operand(node))


@rounding_rule(operator.getitem)
def _log_sigmoid_of_training_is_softplus(node: fx.Node) -> fx.Node | None:
    """The same as the first result of the form that keeps a buffer for training."""
    whole, index = arguments(node)
    if index != 0 or whole.target is not aten.log_sigmoid_forward.default:
        return None
    return _minus_softplus_of_minus(node, first_operand(whole))


def _minus_softplus_of_minus(node: fx.Node, x: fx.Node) -> fx.Node:
    negative = emit(node.graph, aten.neg.default, x, like=node)
    return emit(node.graph, aten.neg.default, emit(node.graph, aten.softplus.default, negative, like=node), like=node)


@rounding_rule(aten.var.correction)
def _variance_is_mean_of_squares(node: fx.Node) -> fx.Node | None:
    """Of what is left when the mean is taken away; n / (n − correction) times as much."""
    x, *rest = arguments(node)
    axes: Any = rest[0] if rest else node.kwargs.get("dim")
    correction = node.kwargs.get("correction", 1)
    sizes = [shape(x)[axis] for axis in axes or ()]
    if not is_float(x) or not sizes or any(map(is_symbolic, sizes)) or not isinstance(correction, int | float):
        return None
    count = math.prod(map(int, sizes))
    if count <= correction:
        return None
    mean = emit(node.graph, aten.mean.dim, x, axes, True, like=node)
    centred = emit(node.graph, aten.sub.Tensor, x, mean, like=node)
    squares = emit(node.graph, aten.mul.Tensor, centred, centred, like=node)
    variance = emit(node.graph, aten.mean.dim, squares, axes, bool(node.kwargs.get("keepdim")), like=node)
    return emit(node.graph, aten.mul.Tensor, variance, count / (count - correction), like=node)


def is_float(value: Any) -> bool:
    """Whether a value of the graph is a tensor of floating-point numbers."""
    return (
        isinstance(value, fx.Node) and isinstance(value.meta["val"], Tensor) and value.meta["val"].is_floating_point()
    )


RULES = (
    _factor_is_product,
    _number_is_operand,
    _constant_is_number,
    _square_is_product,
    _root_is_sqrt,
    _inverse_root_is_rsqrt,
    _inverse_of_root_is_rsqrt,
    _division_by_root_is_product,
    _division_by_number_is_product,
    _minus_one_times_is_negation,
    _adding_the_negative_is_subtraction,
    _norm_is_root_of_sum,
    _variance_is_mean_of_squares,
    _log_sigmoid_is_softplus,
    _log_sigmoid_of_training_is_softplus,
)
