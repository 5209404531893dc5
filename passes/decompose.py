"""Decompose: operations that patterns brought, and attention that none of them fused, become what they stand for.

From here on every pass sees operations that it knows, so that what is proven of the graph is proven of what is lowered.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from autoconvert.analysis.invariants import NOTHING_OUTSIDE
from autoconvert.ir.editing import finish
from autoconvert.ir.program import Program
from autoconvert.ops.semantic import Operation
from autoconvert.rewrite.decomposition import decompose_nodes
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.rewrite.pattern import operations_of


def decompose(program: Program, operations: Iterable[Operation]) -> Program:
    """Replaces every node of `operations` by its device body, and unfused attention by products and a softmax."""
    bodies = {each.overload: each.device for each in operations}
    bodies[torch.ops.aten.scaled_dot_product_attention.default] = _attention
    count = decompose_nodes(program.graph.graph, bodies)
    return program.with_graph(finish(program.graph)) if count else program


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As PyTorch documents it, of query [.., rows, width], key and value [.., columns, width]."""
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        rows, columns = torch.arange(query.shape[-2])[:, None], torch.arange(key.shape[-2])
        attn_mask = columns <= rows
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    return torch.dropout(weights, dropout_p, True) @ value if dropout_p else weights @ value


PASS = Pass(
    "decompose",
    "Operations that patterns brought, and attention that none of them fused, become what they stand for.",
    lambda program, options: decompose(program, operations_of(options.patterns)),
    ensures=(NOTHING_OUTSIDE,),
)
