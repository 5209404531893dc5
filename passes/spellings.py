"""The spellings of one computation: each rule gives the canonical node for one that is not, or None.

Rules are tried in order, before the node; they change no values beyond the order of a rounding.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.rewriting import arguments, emit, first_input, is_symbolic, same_shape, shape

aten = torch.ops.aten

_COPIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten.dropout.default,
}
_CASTS = {aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default, aten.to.device}
_RESHAPES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.view_as.default,
}
_VALUE_PRESERVING_AT_SAME_SHAPE = {
    aten.expand.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.broadcast_to.default,
}


def _drop_copy(node: fx.Node) -> fx.Node | None:
    if node.target in _COPIES and not (node.target is aten.dropout.default and arguments(node)[2:3] == (True,)):
        return first_input(node)
    return None


def _drop_same_type_cast(node: fx.Node) -> fx.Node | None:
    if node.target not in _CASTS:
        return None
    source = first_input(node)
    if source.meta["val"].dtype == node.meta["val"].dtype:
        return source
    if node.target is aten._to_copy.default and set(node.kwargs) == {"dtype"}:
        return None
    return emit(node.graph, aten._to_copy.default, source, dtype=node.meta["val"].dtype, like=node)


def _one_reshape(node: fx.Node) -> fx.Node | None:
    if node.target not in _RESHAPES:
        return None
    source = first_input(node)
    if same_shape(node, source):
        return source
    while source.target is aten.reshape.default:
        source = first_input(source)
    if same_shape(node, source):
        return source
    return _reshape(node, source, shape(node))


def _reshape(node: fx.Node, source: fx.Node, sizes: tuple[Any, ...]) -> fx.Node | None:
    """Sizes as numbers, the one symbolic size as -1; with more of them, as they were written."""
    written = arguments(node)[1] if len(arguments(node)) == 2 and isinstance(arguments(node)[1], list | tuple) else ()
    if sum(map(is_symbolic, sizes)) <= 1:
        resolved = [-1 if is_symbolic(size) else size for size in sizes]
    elif len(written) == len(sizes):
        resolved = list(written)
    else:
        return None
    if (node.target, arguments(node)[0], list(written)) == (aten.reshape.default, source, resolved):
        return None
    return emit(node.graph, aten.reshape.default, source, resolved, like=node)


def _expand_only_what_grows(node: fx.Node) -> fx.Node | None:
    """Sizes that stay as they are, are -1."""
    if node.target not in (aten.expand.default, aten.broadcast_to.default, aten.expand_as.default):
        return None
    source, sizes = first_input(node), shape(node)
    before = (None,) * (len(sizes) - len(shape(source))) + shape(source)
    written = arguments(node)[1] if isinstance(arguments(node)[1], list | tuple) else sizes
    resolved = [
        -1 if old is not None and str(new) == str(old) else (new if not is_symbolic(new) else length)
        for new, old, length in zip(sizes, before, written, strict=True)
    ]
    if (node.target, list(written)) == (aten.expand.default, resolved) or any(map(is_symbolic, resolved)):
        return None
    return emit(node.graph, aten.expand.default, source, resolved, like=node)


def _part_is_slice(node: fx.Node) -> fx.Node | None:
    """A part of `chunk` or `split` is a slice; a slice names its start, its end only where it stops early."""
    if node.target is operator.getitem and isinstance(arguments(node)[0], fx.Node):
        whole, index = arguments(node)
        if whole.target in (
            aten.split.Tensor,
            aten.chunk.default,
            aten.split_with_sizes.default,
            aten.unsafe_chunk.default,
        ):
            source = first_input(whole)
            axis = arguments(whole)[2] if len(arguments(whole)) > 2 else whole.kwargs.get("dim", 0)
            parts = [part.shape[axis] for part in whole.meta["val"]]
            if any(map(is_symbolic, parts)):
                return None
            start = sum(parts[:index])
            end = start + parts[index] if index + 1 < len(parts) else None
            return emit(node.graph, aten.slice.Tensor, source, axis, start, *([end] if end else []), like=node)
    if node.target is aten.slice.Tensor and len(arguments(node)) >= 3 and isinstance(arguments(node)[2], int):
        source, axis, start, *rest = arguments(node)
        size = shape(source)[axis]
        if start < 0 and not is_symbolic(size):
            return emit(node.graph, aten.slice.Tensor, source, axis, max(0, start + size), *rest, like=node)
        end = rest[0] if rest else None
        if isinstance(end, int) and len(rest) == 1 and not is_symbolic(size):
            if end >= size:
                return emit(node.graph, aten.slice.Tensor, source, axis, start, like=node)
            if end < 0:
                return emit(node.graph, aten.slice.Tensor, source, axis, start, max(0, end + size), like=node)
    return None


def _drop_without_effect(node: fx.Node) -> fx.Node | None:
    """Same input and output shape of an operation that can only select or repeat: it did neither."""
    if node.target in _VALUE_PRESERVING_AT_SAME_SHAPE and same_shape(node, first_input(node)):
        return first_input(node)
    return None


def _drop_neutral_arithmetic(node: fx.Node) -> fx.Node | None:
    neutral = {
        aten.mul.Tensor: 1,
        aten.add.Tensor: 0,
        aten.sub.Tensor: 0,
        aten.div.Tensor: 1,
        aten.mul.Scalar: 1,
    }
    if node.target not in neutral or len(arguments(node)) < 2 or node.kwargs:
        return None
    other = arguments(node)[1]
    is_neutral = isinstance(other, int | float) and not isinstance(other, bool) and other == neutral[node.target]
    if is_neutral and isinstance(arguments(node)[0], fx.Node) and _same_type(node, arguments(node)[0]):
        return arguments(node)[0]
    return None


def _square_is_product(node: fx.Node) -> fx.Node | None:
    is_square = node.target is aten.square.default or (
        node.target is aten.pow.Tensor_Scalar and arguments(node)[1] == 2
    )
    if is_square and _same_type(node, first_input(node)):
        return emit(node.graph, aten.mul.Tensor, first_input(node), first_input(node), like=node)
    return None


def _inverse_root_is_rsqrt(node: fx.Node) -> fx.Node | None:
    if node.target is aten.pow.Tensor_Scalar and arguments(node)[1] == -0.5:
        return emit(node.graph, aten.rsqrt.default, first_input(node), like=node)
    if node.target is aten.reciprocal.default and _is_root(arguments(node)[0]):
        return emit(node.graph, aten.rsqrt.default, _root_argument(arguments(node)[0]), like=node)
    return None


def _division_by_root_is_product(node: fx.Node) -> fx.Node | None:
    """x / sqrt(y) = x · rsqrt(y); x / c = x · (1 / c)."""
    if node.target is not aten.div.Tensor or node.kwargs:
        return None
    dividend, divisor = arguments(node)
    if _is_root(divisor):
        root = emit(node.graph, aten.rsqrt.default, _root_argument(divisor), like=node)
        return emit(node.graph, aten.mul.Tensor, dividend, root, like=node)
    if isinstance(divisor, int | float) and divisor != 0 and _is_float(dividend):
        return emit(node.graph, aten.mul.Tensor, dividend, 1.0 / divisor, like=node)
    return None


def _is_root(value: Any) -> bool:
    return isinstance(value, fx.Node) and (
        value.target is aten.sqrt.default or (value.target is aten.pow.Tensor_Scalar and arguments(value)[1] == 0.5)
    )


def _root_argument(value: Any) -> fx.Node:
    return first_input(value)


def _transposed_is_transpose(node: fx.Node) -> fx.Node | None:
    """`t`, `mT` and a permutation that swaps two axes are `transpose`, the lower axis first."""
    if node.target in (aten.t.default, aten.numpy_T.default, aten.mT.default) and len(shape(node)) >= 2:
        return emit(node.graph, aten.transpose.int, first_input(node), -2, -1, like=node)
    if node.target is aten.permute.default:
        rank = len(shape(node))
        moved = [(axis, source % rank) for axis, source in enumerate(arguments(node)[1]) if axis != source % rank]
        if not moved:
            return first_input(node)
        if len(moved) == 2:
            low, high = sorted(axis for axis, _ in moved)
            return emit(node.graph, aten.transpose.int, first_input(node), low - rank, high - rank, like=node)
    if node.target is aten.transpose.int and arguments(node)[1] > arguments(node)[2]:
        source, high, low = arguments(node)
        return emit(node.graph, aten.transpose.int, source, low, high, like=node)
    return None


def _transposed_twice_is_nothing(node: fx.Node) -> fx.Node | None:
    if node.target is not aten.transpose.int:
        return None
    source = first_input(node)
    is_back = source.target is aten.transpose.int and arguments(source)[1:] == arguments(node)[1:]
    return first_input(source) if is_back else None


def _product_with_weight_is_linear(node: fx.Node) -> fx.Node | None:
    """x @ w and addmm(b, x, w) with a parameter matrix w are linear(x, wᵀ, b)."""
    if node.target is aten.addmm.default and not node.kwargs:
        bias, x, matrix = arguments(node)
    elif node.target in (aten.mm.default, aten.matmul.default):
        (x, matrix), bias = arguments(node), None
    else:
        return None
    if len(shape(matrix)) != 2 or not _is_weight(matrix):
        return None
    is_transposed = matrix.target is aten.transpose.int
    transposed = (
        first_input(matrix) if is_transposed else emit(node.graph, aten.transpose.int, matrix, -2, -1, like=node)
    )
    operands = (x, transposed) if bias is None else (x, transposed, bias)
    return emit(node.graph, aten.linear.default, *operands, like=node)


def _is_weight(node: Any) -> bool:
    """Depends on parameters alone: a short walk, because nothing else makes matrices of rank 2 this way."""
    seen: list[fx.Node] = [node]
    while seen:
        current = seen.pop()
        if current.op == "placeholder" and not current.meta.get("is_weight"):
            return False
        seen.extend(current.all_input_nodes)
    return True


def _mask_is_where(node: fx.Node) -> fx.Node | None:
    if node.target is aten.masked_fill.Scalar:
        x, mask, value = arguments(node)
        dtype = node.meta["val"].dtype
        value = float(value) if dtype.is_floating_point else value
        with node.meta["val"].fake_mode:
            fill = emit(node.graph, aten.scalar_tensor.default, value, dtype=dtype, like=node)
        return emit(node.graph, aten.where.self, mask, fill, x, like=node)
    return None


def _same_type(a: fx.Node, b: fx.Node) -> bool:
    return same_shape(a, b) and a.meta["val"].dtype == b.meta["val"].dtype


def _is_float(value: Any) -> bool:
    return (
        isinstance(value, fx.Node) and isinstance(value.meta["val"], Tensor) and value.meta["val"].is_floating_point()
    )


RULES: tuple[Callable[[fx.Node], fx.Node | None], ...] = (
    _drop_copy,
    _drop_same_type_cast,
    _one_reshape,
    _expand_only_what_grows,
    _part_is_slice,
    _drop_without_effect,
    _drop_neutral_arithmetic,
    _square_is_product,
    _inverse_root_is_rsqrt,
    _division_by_root_is_product,
    _transposed_is_transpose,
    _transposed_twice_is_nothing,
    _product_with_weight_is_linear,
    _mask_is_where,
)
