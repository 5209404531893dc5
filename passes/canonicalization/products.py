"""Products of matrices: with a weight they are `linear`, all others are `matmul`."""

from typing import Any

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, shape
from autoconvert.passes.canonicalization.einsum import einsum_is_product

aten = torch.ops.aten


def _product_with_weight_is_linear(node: fx.Node) -> fx.Node | None:
    """x @ w and addmm(b, x, w) with a parameter matrix w are linear(x, wᵀ, b), where b is a vector."""
    if node.target is aten.addmm.default and len(shape(arguments(node)[0])) == 1 and not _factors(node):
        bias, x, matrix = arguments(node)
    elif node.target in (aten.mm.default, aten.matmul.default):
        (x, matrix), bias = arguments(node), None
    else:
        return None
    if len(shape(matrix)) != 2 or not is_weight(matrix):
        return None
    is_transposed = matrix.target is aten.transpose.int
    transposed = (
        first_operand(matrix) if is_transposed else emit(node.graph, aten.transpose.int, matrix, -2, -1, like=node)
    )
    operands = (x, transposed) if bias is None else (x, transposed, bias)
    return emit(node.graph, aten.linear.default, *operands, like=node)


def _product_is_matmul(node: fx.Node) -> fx.Node | None:
    if node.target in (aten.mm.default, aten.bmm.default):
        return emit(node.graph, aten.matmul.default, *arguments(node), like=node)
    if node.target is aten.addmm.default and not _factors(node):
        added, left, right = arguments(node)
        product = emit(node.graph, aten.matmul.default, left, right, like=node)
        return emit(node.graph, aten.add.Tensor, product, added, like=node)
    return None


def _factors(node: fx.Node) -> dict[str, Any]:
    return {name: value for name, value in node.kwargs.items() if value != 1}


def is_weight(node: Any) -> bool:
    """Depends on parameters alone: a short walk, because nothing else makes matrices of rank 2 this way."""
    seen: list[fx.Node] = [node]
    while seen:
        current = seen.pop()
        if current.op == "placeholder" and not current.meta.get("is_weight"):
            return False
        seen.extend(current.all_input_nodes)
    return True


def _right_operand_is_transposed(node: fx.Node) -> fx.Node | None:
    """A permutation that brings the summed axis of the right operand up is one of its axes, and a transpose."""
    if node.target is not aten.matmul.default:
        return None
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


def _softmax(node: fx.Node) -> fx.Node | None:
    forms = {aten._softmax.default: aten.softmax.int, aten._log_softmax.default: aten.log_softmax.int}
    if node.target not in forms or True in arguments(node)[2:]:
        return None
    return emit(node.graph, forms[node.target], *arguments(node)[:2], like=node)


RULES = (
    _product_with_weight_is_linear,
    _product_is_matmul,
    _right_operand_is_transposed,
    einsum_is_product,
    _softmax,
)
