"""Largest columns: a number written where the largest values of each row are, without their places."""

import math
import operator

import torch
from torch import fx

from autoconvert.ir.editing import add_constant, emit
from autoconvert.ir.nodes import arguments, first_operand, named_arguments

aten = torch.ops.aten


def places_of_largest(index: fx.Node) -> fx.Node | None:
    """The `topk` along the last axis that gives the places `index`, through casts."""
    while index.target is aten._to_copy.default:
        index = first_operand(index)
    if index.target is not operator.getitem or arguments(index)[1] != 1:
        return None
    found = first_operand(index)
    is_largest = found.target is aten.topk.default and named_arguments(found)["largest"]
    return found if is_largest and named_arguments(found)["dim"] == -1 else None


def padded(owner: fx.GraphModule, values: fx.Node, axis: int, count: int, like: fx.Node) -> fx.Node:
    """`values` with `count` more along an axis, counted from the end: as many as are chosen, and chosen last."""
    graph, dtype = owner.graph, values.meta["val"].dtype
    least = torch.full((count, *[1] * (-axis - 1)), -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min)
    constant = add_constant(owner, f"least_{like.name}", least.to(dtype), values)
    first = emit(graph, aten.slice.Tensor, values, axis, 0, 1, like=like)
    added = emit(graph, aten.minimum.default, first, constant, like=like)
    return emit(graph, aten.cat.default, [values, added], axis, like=like)


def written_at_largest(
    owner: fx.GraphModule, base: fx.Node, values: fx.Node, count: int, number: float, like: fx.Node
) -> fx.Node:
    """`base` with `number` where the `count` largest of each row of `values` are, at the graph's insertion point.

    Those are the values above the least of them, and of equal ones the first, as many as are left. PyTorch says
    nothing of equal ones.
    """
    graph = owner.graph
    found = emit(graph, aten.topk.default, padded(owner, values, -1, count, like), count, -1, like=like)
    largest = emit(graph, operator.getitem, found, 0, like=like)
    least = emit(graph, aten.slice.Tensor, largest, -1, count - 1, like=like)
    above = emit(graph, aten.gt.Tensor, values, least, like=like)
    equal = emit(graph, aten.eq.Tensor, values, least, like=like)
    ones = [emit(graph, aten._to_copy.default, each, dtype=torch.float32, like=like) for each in (above, equal)]
    taken = emit(graph, aten.sum.dim_IntList, ones[0], [-1], True, like=like)
    left = emit(graph, aten.rsub.Scalar, taken, count, like=like)
    rank = emit(graph, aten.cumsum.default, ones[1], -1, like=like)
    is_first = emit(graph, aten.le.Tensor, rank, left, like=like)
    first = emit(graph, aten.logical_and.default, equal, is_first, like=like)
    chosen = emit(graph, aten.logical_or.default, above, first, like=like)
    whole = emit(graph, aten.full_like.default, base, number, like=like)
    return emit(graph, aten.where.self, chosen, whole, base, like=like)
