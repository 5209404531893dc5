"""Sinks aside: a softmax over columns and sinks behind them, of which the columns are kept, is one over columns alone.

With L the logarithm of the sum of exponentials, exp(s) / (Σ exp(s) + Σ exp(k)) = softmax(s) · sigmoid(L(s) - L(k)).
"""

import torch
from torch import fx

from autoconvert.analysis.axis_rules import argument
from autoconvert.ir.editing import emit, replace
from autoconvert.ir.nodes import arguments, first_operand, shape

aten = torch.ops.aten


def without_sinks(cut: fx.Node) -> fx.Node | None:
    """What stands for `cut` with no column behind those of `cut`; None where it is no such softmax."""
    softmax = first_operand(cut)
    if cut.target is not aten.slice.Tensor or softmax.target is not aten.softmax.int:
        return None
    joined = first_operand(softmax)
    if joined.target is not aten.cat.default or len(arguments(joined)[0]) != 2:
        return None
    scores, sinks = arguments(joined)[0]
    rank = len(shape(cut))
    along = {int(argument(node, "dim")) % rank for node in (cut, softmax, joined)}
    is_whole = argument(cut, "start") in (0, None) and list(map(str, shape(cut))) == list(map(str, shape(scores)))
    if along != {rank - 1} or not is_whole or argument(cut, "step") != 1:
        return None
    graph = cut.graph
    with graph.inserting_before(cut):
        weights = emit(graph, aten.softmax.int, scores, -1, like=softmax)
        totals = [emit(graph, aten.logsumexp.default, each, [-1], True, like=softmax) for each in (scores, sinks)]
        share = emit(graph, aten.sigmoid.default, emit(graph, aten.sub.Tensor, *totals, like=softmax), like=softmax)
        kept = emit(graph, aten.mul.Tensor, weights, share, like=softmax)
    replace(cut, kept)
    return kept
