"""Learned positions: the first rows of a parameter, one for each position, are looked up by position."""

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, is_symbolic, shape
from autoconvert.rewrite.rule import Rewriter, rewriter_rule

aten = torch.ops.aten


@rewriter_rule(aten.slice.Tensor)
def _first_rows_are_looked_up(node: fx.Node, rewriter: Rewriter) -> fx.Node | None:
    """weight[:length] is weight[positions]."""
    if len(arguments(node)) != 4:
        return None
    weight, axis, start, end = arguments(node)
    is_length = (
        isinstance(end, fx.Node) and end.target is aten.sym_size.int and str(end.meta["val"]) == str(shape(node)[axis])
    )
    if start != 0 or not is_length or not rewriter.is_weight(weight) or any(map(is_symbolic, shape(weight))):
        return None
    positions = emit(node.graph, aten.arange.default, end, like=node)
    *leading, rows, width = (1, *shape(weight))
    if axis != -2 or any(size != 1 for size in leading):
        return emit(node.graph, aten.index_select.default, weight, axis, positions, like=node)
    matrix = emit(node.graph, aten.reshape.default, weight, [rows, width], like=node)
    found = emit(node.graph, aten.embedding.default, matrix, positions, like=node)
    return emit(node.graph, aten.reshape.default, found, [*leading[1:], -1, width], like=node)


RULES = (_first_rows_are_looked_up,)
