"""A column beside the text, such as a sink: it takes part in a softmax, and nothing follows it."""

from typing import Any

import torch
from torch import fx

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, is_symbolic, shape

aten = torch.ops.aten


def share_beside_a_column(cut: fx.Node) -> None:
    """A softmax without its last column becomes one of the others alone, which share what that column leaves.

    softmax([x, y])[.., :-1] is softmax(x) · sigmoid(log Σ exp(x) − y).
    """
    softmax, *cut_at = _call(cut, aten.slice.Tensor)
    joined, *over = _call(softmax, aten.softmax.int)
    parts, *at = _call(joined, aten.cat.default)
    if (cut_at, over, at) != ([-1, 0, -1], [-1], [-1]) or len(parts) != 2:
        return
    x, y = parts
    if not is_symbolic(shape(x)[-1]) or shape(y)[-1] != 1 or x.meta["val"].dtype != torch.float32:
        return
    with cut.graph.inserting_before(cut):
        size = emit(cut.graph, aten.logsumexp.default, x, [-1], True, like=cut)
        share = emit(cut.graph, aten.sigmoid.default, emit(cut.graph, aten.sub.Tensor, size, y, like=cut), like=cut)
        alone = emit(cut.graph, aten.softmax.int, x, -1, like=cut)
        cut.replace_all_uses_with(emit(cut.graph, aten.mul.Tensor, alone, share, like=cut))
    cut.graph.eliminate_dead_code()


def _call(node: Any, target: Any) -> tuple[Any, ...]:
    """The arguments of a call of `target` that has no keywords; of anything else nothing."""
    is_call = isinstance(node, fx.Node) and node.target is target and not node.kwargs
    return arguments(node) if is_call else (None,)
