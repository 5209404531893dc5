"""Decompose: operations that patterns brought, and attention that none of them fused, become what they stand for.

From here on every pass sees operations that it knows, so that what is proven of the graph is proven of what is lowered.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoconvert.analysis.invariants import NOTHING_OUTSIDE
from autoconvert.errors import InputError, first_line
from autoconvert.ir.editing import finish
from autoconvert.ir.program import Program
from autoconvert.ops.semantic import Body, Operation
from autoconvert.rewrite.decomposition import decompose_nodes
from autoconvert.rewrite.own_lines import with_own_lines
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.rewrite.pattern import line_within, operations_of, place_of, shapes


def decompose(program: Program, operations: Iterable[Operation]) -> Program:
    """Replaces every node of `operations` by its device body, and unfused attention by products and a softmax.

    Raises:
        InputError: a device body cannot be run where the operation stands, or gives something else.
    """
    bodies = {each.overload: _device(each) for each in operations}
    bodies[torch.ops.aten.scaled_dot_product_attention.default] = _attention
    count = decompose_nodes(program.graph.graph, bodies)
    return program.with_graph(finish(program.graph)) if count else program


def _device(operation: Operation) -> Body:
    """The device body of an operation, whose failures are those of the file that it is written in."""

    def fault(what: str, line: int | None, arguments: Mapping[str, Any]) -> InputError:
        file, _, first = (place_of(operation.device) or "<unknown>:0").rpartition(":")
        tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
        name = str(operation.overload).removesuffix(".default")
        return InputError(
            f"{file}:{line or first}: operation {name}: its `device` body {what}, with {shapes(tensors)}.",
            hint="It must hold for every call of the operation; the `guard` of a pattern may decline the others.",
        )

    def body(**arguments: Any) -> Any:
        try:
            result = with_own_lines(operation.device)(**arguments)
        except (Exception, SystemExit) as error:
            line = line_within(operation.device, error)
            raise fault(f"cannot be run: {first_line(error)}", line, arguments) from error
        # Nobody uses this one, so it goes again.
        expected = operation(**arguments)
        if _forms(result) != _forms(expected):
            raise fault(f"gives {_forms(result)} instead of {_forms(expected)}", None, arguments)
        return result

    return body


def _forms(result: Any) -> str:
    """The types and shapes of what an operation gives; a size that is no number has many spellings."""
    values = result if isinstance(result, tuple | list) else (result,)
    return ", ".join(
        f"{each.dtype} {[size if isinstance(size, int) else 's' for size in each.shape]}"
        if isinstance(each, Tensor)
        else type(each).__name__
        for each in values
    )


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
