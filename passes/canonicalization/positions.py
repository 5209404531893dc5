"""Learned positions: the first rows of a parameter, one for each position, are looked up by position."""

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, is_symbolic, shape
from autoconvert.passes.canonicalization.products import is_weight

aten = torch.ops.aten


def _first_rows_are_looked_up(node: fx.Node) -> fx.Node | None:
    """weight[:length] is weight[positions]."""
    if node.target is not aten.slice.Tensor or len(arguments(node)) != 4:
        return None
    weight, axis, start, end = arguments(node)
    is_length = (
        isinstance(end, fx.Node) and end.target is aten.sym_size.int and str(end.meta["val"]) == str(shape(node)[axis])
    )
    if start != 0 or not is_length or not is_weight(weight) or any(map(is_symbolic, shape(weight))):
        return None
    positions = emit(node.graph, aten.arange.default, end, like=node)
    *leading, rows, width = (1, *shape(weight))
    if axis != -2 or any(size != 1 for size in leading):
        return emit(node.graph, aten.index_select.default, weight, axis, positions, like=node)
    matrix = emit(node.graph, aten.reshape.default, weight, [rows, width], like=node)
    found = emit(node.graph, aten.embedding.default, matrix, positions, like=node)
    return emit(node.graph, aten.reshape.default, found, [*leading[1:], -1, width], like=node)


RULES = (_first_rows_are_looked_up,)
