"""Composite operations are decomposed as PyTorch itself defines them, unless a building block is one."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from autoconvert.ir.editing import emit, inline, traced
from autoconvert.ir.nodes import concrete, is_symbolic, named_arguments, shape
from autoconvert.rewrite.rule import rule
from autoconvert.tracing.untraceable import is_ours

aten = torch.ops.aten

# Composites that patterns and lowerings are written in.
_KEPT = {
    aten.linear.default,
    aten.matmul.default,
    aten.reshape.default,
    aten.softmax.int,
    aten.log_softmax.int,
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.scaled_dot_product_attention.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.dropout.default,
    aten.item.default,
}
# No composites to the dispatcher, but PyTorch has a definition of them by simpler operations.
_DEFINED = {
    aten.addcdiv.default,
    aten.addcmul.default,
    aten.baddbmm.default,
    aten.glu.default,
    aten.rsub.Scalar,
    aten.rsub.Tensor,
    aten.std.correction,
}


# For symbols where only numbers will do; the same for all, as operands may have to have as many entries.
_SOME_SIZE = 19


@rule(aten.group_norm.default)
def _norm_of_groups(node: fx.Node) -> fx.Node | None:
    """In each row of a matrix, groups of channels are normed as rows of their own; each channel keeps its weight."""
    x, groups, weight, bias, eps, _ = named_arguments(node).values()
    if len(shape(x)) != 2 or is_symbolic(shape(x)[1]):
        return None
    channels = int(shape(x)[1])
    rows = emit(node.graph, aten.reshape.default, x, [-1, groups, channels // groups], like=node)
    rows = emit(node.graph, aten.layer_norm.default, rows, [channels // groups], None, None, eps, like=node)
    normed = emit(node.graph, aten.reshape.default, rows, [-1, channels], like=node)
    if weight is not None:
        normed = emit(node.graph, aten.mul.Tensor, normed, weight, like=node)
    return normed if bias is None else emit(node.graph, aten.add.Tensor, normed, bias, like=node)


@rule(aten.pad.default)
def _constant_pad(node: fx.Node) -> fx.Node | None:
    """Padding by a value is spelled out here, as PyTorch's own decomposition makes numbers of symbols on the way."""
    x, padding, mode, value = named_arguments(node).values()
    if mode != "constant" or any(is_symbolic(size) for size in _padded_sizes(node)):
        return None
    return emit(node.graph, aten.constant_pad_nd.default, x, padding, value or 0.0, like=node)


@rule()
def _decomposed(node: fx.Node) -> fx.Node | None:
    if not _is_composite(node.target):
        return None
    operands = {f"x{index}": operand for index, operand in enumerate(node.all_input_nodes)}
    values = {name: operand.meta["val"] for name, operand in operands.items()}
    if not operands or not all(isinstance(value, Tensor) for value in (node.meta.get("val"), *values.values())):
        return None
    names = {operand: name for name, operand in operands.items()}

    def call(**bound: Tensor) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: bound[names[n]])
        return node.target(*args, **kwargs)  # type: ignore[operator]

    if node.target is aten.pad.default and not all(isinstance(size, int) for size in _padded_sizes(node)):
        # PyTorch's padding wants numbers for the axes that it changes.
        return None
    try:
        spelled_out = traced(call, values, _definitions()).graph
    except RuntimeError as error:
        if is_ours(error) or not any(is_symbolic(size) for value in values.values() for size in value.shape):
            raise
        # Not every operation takes symbols; one that stays composed is refused by its name, where it matters. If it
        # fails for numbers too, the fault is another.
        traced(call, {name: _with_numbers(value) for name, value in values.items()}, _definitions())
        return None
    if any(part.op == "call_function" and part.meta.get("val") is None for part in spelled_out.nodes):
        # A check of numbers gives none; what makes one stays composed, and is refused by its name.
        return None
    result = inline(node.graph, spelled_out, operands, like=node)
    return result if isinstance(result, fx.Node) else None


def _with_numbers(value: Tensor) -> Tensor:
    """A tensor of the same kind with a number for each symbol in its sizes."""
    with value.fake_mode:  # type: ignore[attr-defined]
        return torch.empty([concrete(size, _SOME_SIZE) for size in value.shape], dtype=value.dtype, device=value.device)


def _padded_sizes(node: fx.Node) -> list[Any]:
    """The sizes, from the last axis on, of those that a padding changes."""
    axes = len(node.args[1]) // 2  # type: ignore[arg-type]
    return list(shape(node.all_input_nodes[0])[-axes:])


@cache
def _is_composite(operation: Any) -> bool:
    if not isinstance(operation, OpOverload) or operation.namespace != "aten" or operation in _KEPT:
        return False
    return operation in _DEFINED or operation.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    )


@cache
def _definitions() -> dict[OpOverload, Callable[..., Any]]:
    known = torch.export.default_decompositions()
    return {operation: known[operation] for operation in _DEFINED}


RULES = (_norm_of_groups, _constant_pad, _decomposed)
