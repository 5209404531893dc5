"""Products of matrices: with a weight they are `linear`, all others are `matmul`."""

from typing import Any

import torch
from torch import fx

from autoconvert.analysis.constants import constant_value
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, shape
from autoconvert.passes.canonicalization import einsum
from autoconvert.rewrite.rule import Rewriter, rewriter_rule, rule

aten = torch.ops.aten


@rewriter_rule(aten.mm.default, aten.matmul.default)
def _product_with_weight_is_linear(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    """x @ w with a parameter matrix w is linear(x, wᵀ)."""
    x, matrix = arguments(node)
    return _linear(node, x, matrix) if len(shape(matrix)) == 2 and rewriter.is_weight(matrix) else None


@rewriter_rule(aten.mm.default, aten.matmul.default)
def _product_of_weight_is_linear(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    """w @ x with a parameter matrix w is linear(xᵀ, w)ᵀ."""
    matrix, x = arguments(node)
    if len(shape(matrix)) != 2 or len(shape(x)) < 2 or not rewriter.is_weight(matrix) or rewriter.is_weight(x):
        return None
    rows = emit(node.graph, aten.transpose.int, x, -2, -1, like=node)
    product = emit(node.graph, aten.linear.default, rows, matrix, like=node)
    return emit(node.graph, aten.transpose.int, product, -2, -1, like=node)


@rewriter_rule(aten.addmm.default)
def _sum_with_product_is_linear(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    """addmm(b, x, w) with a parameter matrix w and a vector b is linear(x, wᵀ, b)."""
    bias, x, matrix = arguments(node)
    if len(shape(bias)) != 1 or _factors(node) or not rewriter.is_weight(matrix):
        return None
    return _linear(node, x, matrix, bias)


def _linear(node: fx.Node, x: fx.Node, matrix: fx.Node, *bias: fx.Node) -> fx.Node:
    is_transposed = matrix.target is aten.transpose.int
    transposed = (
        first_operand(matrix) if is_transposed else emit(node.graph, aten.transpose.int, matrix, -2, -1, like=node)
    )
    return emit(node.graph, aten.linear.default, x, transposed, *bias, like=node)


@rule(aten.mm.default, aten.bmm.default)
def _product_is_matmul(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.matmul.default, *arguments(node), like=node)


@rule(aten.addmm.default)
def _sum_with_product_is_sum(node: fx.Node) -> fx.Node | None:
    if _factors(node):
        return None
    added, left, right = arguments(node)
    product = emit(node.graph, aten.matmul.default, left, right, like=node)
    return emit(node.graph, aten.add.Tensor, product, added, like=node)


@rule(aten.linear.default)
def _product_that_moves_entries(node: fx.Node) -> fx.Node | None:
    """A known matrix of which each row has one entry moves entries, and scales them."""
    x, matrix, *bias = arguments(node)
    values = None if bias else constant_value(matrix)
    if values is None or not len(values) or not ((values != 0).sum(dim=1) == 1).all():
        return None
    places = emit(node.graph, aten.argmax.default, emit(node.graph, aten.abs.default, matrix, like=node), 1, like=node)
    moved = emit(node.graph, aten.index.Tensor, x, [*[None] * (len(shape(x)) - 1), places], like=node)
    if (values.sum(dim=1) == 1).all():
        return moved
    scales = emit(node.graph, aten.sum.dim_IntList, matrix, [1], like=node)
    return emit(node.graph, aten.mul.Tensor, moved, scales, like=node)


def _factors(node: fx.Node) -> dict[str, Any]:
    return {name: value for name, value in node.kwargs.items() if value != 1}


@rule(aten.matmul.default)
def _right_operand_is_transposed(node: fx.Node) -> fx.Node | None:
    """A permutation that brings the summed axis of the right operand up is one of its axes, and a transpose."""
    left, right = arguments(node)
    if right.target is not aten.permute.default:
        return None
    rank = len(shape(right))
    order = [axis % rank for axis in arguments(right)[1]]
    rows = [*order[:-2], order[-1], order[-2]]
    if sum(axis != source for axis, source in enumerate(rows)) > 2:
        return None
    permuted = emit(node.graph, aten.permute.default, first_operand(right), rows, like=right)
    transposed = emit(node.graph, aten.transpose.int, permuted, -2, -1, like=right)
    return emit(node.graph, aten.matmul.default, left, transposed, like=node)


@rule(aten.transpose.int)
def _product_of_transposed(node: fx.Node) -> fx.Node | None:
    """(aᵀ bᵀ)ᵀ is b a."""
    product = first_operand(node)
    if product.target is not aten.matmul.default or not all(map(_is_transposed, (node, *arguments(product)))):
        return None
    a, b = map(first_operand, arguments(product))
    return emit(node.graph, aten.matmul.default, b, a, like=product)


def _is_transposed(node: fx.Node) -> bool:
    """Whether it is a matrix, or a batch of some, with rows and columns exchanged."""
    return node.target is aten.transpose.int and {axis % len(shape(node)) for axis in arguments(node)[1:]} == {
        len(shape(node)) - 2,
        len(shape(node)) - 1,
    }


RULES = (
    _product_with_weight_is_linear,
    _product_of_weight_is_linear,
    _sum_with_product_is_linear,
    _product_is_matmul,
    _product_that_moves_entries,
    _sum_with_product_is_sum,
    _right_operand_is_transposed,
    _product_of_transposed,
    *einsum.RULES,
)
