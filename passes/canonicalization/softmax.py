"""Softmax: the same number taken from all its scores changes nothing, and other axes may merge before or after it."""

import operator
from typing import Any

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, overload, shape
from autoconvert.rewrite.rule import rule

aten = torch.ops.aten

_MAXIMA = {aten.amax.default, aten.max.dim}
_FORMS = {aten._softmax.default: aten.softmax.int, aten._log_softmax.default: aten.log_softmax.int}


@rule(*_FORMS)
def _softmax_of_its_type(node: fx.Node) -> fx.Node | None:
    """Without the cast to a wider type that the inner operation can make."""
    if True in arguments(node)[2:]:
        return None
    return emit(node.graph, _FORMS[overload(node)], *arguments(node)[:2], like=node)


@rule(aten.softmax.int)
def _less_the_largest(node: fx.Node) -> fx.Node | None:
    """softmax(x − max(x)) is softmax(x)."""
    if node.kwargs:
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
        node = first_operand(node)
    over = arguments(node)[1:2]
    return node.target in _MAXIMA and arguments(node)[0] is scores and over in ((axis,), ([axis],)) and _stays(node)


def _stays(node: fx.Node) -> bool:
    return arguments(node)[2:3] == (True,) or node.kwargs.get("keepdim") is True


@rule(aten.softmax.int)
def _before_axes_merge(node: fx.Node) -> fx.Node | None:
    """softmax(reshape(x)) along the last axis is reshape(softmax(x)) where that axis is the same one."""
    if arguments(node)[1] != -1:
        return None
    merged = first_operand(node)
    if merged.target is not aten.reshape.default:
        return None
    source, sizes = arguments(merged)
    before, after = shape(source), shape(merged)
    if not 1 < len(after) < len(before) or str(before[-1]) != str(after[-1]):
        return None
    apart = emit(node.graph, aten.softmax.int, source, *arguments(node)[1:], like=node, **node.kwargs)
    return emit(node.graph, aten.reshape.default, apart, sizes, like=node)


RULES = (_softmax_of_its_type, _less_the_largest, _before_axes_merge)
