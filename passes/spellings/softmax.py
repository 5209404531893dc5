"""Softmax: the same number taken from all its scores changes nothing."""

import operator
from typing import Any

import torch
from torch import fx

from autoconvert.rewriting import arguments, emit, first_input

aten = torch.ops.aten

_MAXIMA = {aten.amax.default, aten.max.dim}


def _less_the_largest(node: fx.Node) -> fx.Node | None:
    """softmax(x − max(x)) is softmax(x)."""
    if node.target is not aten.softmax.int or node.kwargs:
        return None
    source, axis, *_ = arguments(node)
    if source.target is not aten.sub.Tensor or source.kwargs:
        return None
    scores, largest = arguments(source)
    if not _is_maximum(largest, scores, axis):
        return None
    return emit(node.graph, aten.softmax.int, scores, *arguments(node)[1:], like=node)


def _is_maximum(node: Any, scores: fx.Node, axis: int) -> bool:
    """The largest of `scores` along `axis`, which stays as an axis of one."""
    if not isinstance(node, fx.Node):
        return False
    if node.target is operator.getitem and arguments(node)[1] == 0:
        # `max` gives a pair, of which the first is the value.
        node = first_input(node)
    over = arguments(node)[1:2]
    return node.target in _MAXIMA and arguments(node)[0] is scores and over in ((axis,), ([axis],)) and _stays(node)


def _stays(node: fx.Node) -> bool:
    return arguments(node)[2:3] == (True,) or node.kwargs.get("keepdim") is True


RULES = (_less_the_largest,)
