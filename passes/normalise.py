"""Normalise: what people write in many ways becomes one way, so that one pattern covers it.

Nothing here knows a building block. Casts to the same type, copies and operations that change no value go;
arguments that equal their defaults are left out; axes count from the end; products with matrices are linear.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.rewriting import emit, finish, is_symbolic, replace, same_shape, shape

aten = torch.ops.aten

_ASSERTIONS = {
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}
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
_COMPUTED_IN_A_TYPE = {aten.softmax.int, aten.log_softmax.int, aten.mean.dim, aten.sum.dim_IntList}
_SAY_NOTHING = {"device", "layout", "pin_memory", "non_blocking", "memory_format", "cudnn_enable"}
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


def normalise(graph: fx.GraphModule) -> fx.GraphModule:
    """Rewrites `graph` in place to the canonical form that patterns are traced to as well."""
    canonical: set[fx.Node] = set()
    for node in list(graph.graph.nodes):
        _normalise_node(node, canonical)
    _share_equal_nodes(graph.graph)
    return finish(graph)


def _normalise_node(node: fx.Node, canonical: set[fx.Node]) -> None:
    if node.target in _ASSERTIONS:
        node.graph.erase_node(node)
        return
    canonical.add(node)
    if node.op != "call_function":
        return
    if isinstance(node.target, torch._ops.OpOverload):
        _explicit_arguments(node)
    for rule in _RULES:
        with node.graph.inserting_before(node):
            new = rule(node)
        if new is not None:
            replace(node, new)
            if new not in canonical:
                _normalise_node(new, canonical)
            return


def _explicit_arguments(node: fx.Node) -> None:
    """Positional up to the last argument that is not its default, the rest by keyword; axes from the end."""
    schema = node.target._schema
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    if schema.name == "aten::scaled_dot_product_attention" and given.get("scale") is None:
        given["scale"] = float(shape(node.args[0])[-1]) ** -0.5
    if schema.name == "aten::rms_norm" and given.get("eps") is None:
        given["eps"] = torch.finfo(node.meta["val"].dtype).eps
    # Patterns capture numbers, so those stand in the graph even where they are the default.
    given = {a.name: a.default_value for a in schema.arguments if isinstance(a.default_value, float)} | given
    if node.target in _COMPUTED_IN_A_TYPE and given.get("dtype") == _input(node).meta["val"].dtype:
        given["dtype"] = None
    rank = _rank_of_axes(node)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    positional = True
    for argument in schema.arguments:
        if argument.name not in given or _is_default(given[argument.name], argument):
            positional = False
            continue
        value = given[argument.name]
        if rank and argument.name in ("dim", "dims", "dim0", "dim1"):
            value = _from_the_end(value, rank)
            if torch.Tag.reduction in node.target.tags and isinstance(value, list):
                value = sorted(value)
        if positional and not argument.kwarg_only:
            args.append(value)
        else:
            kwargs[argument.name] = value
    node.args, node.kwargs = tuple(args), kwargs


def _is_default(value: Any, argument: Any) -> bool:
    if not argument.has_default_value() or isinstance(value, fx.Node):
        return False
    if argument.name in _SAY_NOTHING:
        return True
    default = argument.default_value
    return type(value) is type(default) and not isinstance(default, float) and bool(value == default)


def _rank_of_axes(node: fx.Node) -> int:
    if node.target is aten.unsqueeze.default:
        return len(shape(node))
    if node.target in (aten.cat.default, aten.stack.default):
        return len(shape(node))
    first = node.args[0] if node.args else None
    return len(shape(first)) if isinstance(first, fx.Node) else 0


def _from_the_end(axis: Any, rank: int) -> Any:
    if isinstance(axis, list | tuple):
        return [_from_the_end(a, rank) for a in axis]
    return axis - rank if isinstance(axis, int) and axis >= 0 else axis


def _drop_copy(node: fx.Node) -> fx.Node | None:
    if node.target in _COPIES and not (node.target is aten.dropout.default and node.args[2:3] == (True,)):
        return _input(node)
    return None


def _drop_same_type_cast(node: fx.Node) -> fx.Node | None:
    if node.target not in _CASTS:
        return None
    source = _input(node)
    if source.meta["val"].dtype == node.meta["val"].dtype:
        return source
    if node.target is aten._to_copy.default and set(node.kwargs) == {"dtype"}:
        return None
    return emit(node.graph, aten._to_copy.default, source, dtype=node.meta["val"].dtype, like=node)


def _one_reshape(node: fx.Node) -> fx.Node | None:
    if node.target not in _RESHAPES:
        return None
    source = _input(node)
    if same_shape(node, source):
        return source
    while source.target is aten.reshape.default:
        source = _input(source)
    if same_shape(node, source):
        return source
    return _reshape(node, source, shape(node))


def _reshape(node: fx.Node, source: fx.Node, sizes: tuple[Any, ...]) -> fx.Node | None:
    """Sizes as numbers, the one symbolic size as -1; with more of them, as they were written."""
    written = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], list | tuple) else ()
    if sum(map(is_symbolic, sizes)) <= 1:
        resolved = [-1 if is_symbolic(size) else size for size in sizes]
    elif len(written) == len(sizes):
        resolved = list(written)
    else:
        return None
    if (node.target, node.args[0], list(written)) == (aten.reshape.default, source, resolved):
        return None
    return emit(node.graph, aten.reshape.default, source, resolved, like=node)


def _expand_only_what_grows(node: fx.Node) -> fx.Node | None:
    """Sizes that stay as they are, are -1."""
    if node.target not in (aten.expand.default, aten.broadcast_to.default, aten.expand_as.default):
        return None
    source, sizes = _input(node), shape(node)
    before = (None,) * (len(sizes) - len(shape(source))) + shape(source)
    written = node.args[1] if isinstance(node.args[1], list | tuple) else sizes
    resolved = [
        -1 if old is not None and str(new) == str(old) else (new if not is_symbolic(new) else length)
        for new, old, length in zip(sizes, before, written, strict=True)
    ]
    if (node.target, list(written)) == (aten.expand.default, resolved) or any(map(is_symbolic, resolved)):
        return None
    return emit(node.graph, aten.expand.default, source, resolved, like=node)


def _part_is_slice(node: fx.Node) -> fx.Node | None:
    """A part of `chunk` or `split` is a slice; a slice names its start, its end only where it stops early."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        whole, index = node.args
        if whole.target in (
            aten.split.Tensor,
            aten.chunk.default,
            aten.split_with_sizes.default,
            aten.unsafe_chunk.default,
        ):
            source = _input(whole)
            axis = whole.args[2] if len(whole.args) > 2 else whole.kwargs.get("dim", 0)
            parts = [part.shape[axis] for part in whole.meta["val"]]
            if any(map(is_symbolic, parts)):
                return None
            start = sum(parts[:index])
            end = start + parts[index] if index + 1 < len(parts) else None
            return emit(
                node.graph, aten.slice.Tensor, source, axis, start, *([end] if end else []), like=node
            )
    if node.target is aten.slice.Tensor and len(node.args) >= 3 and isinstance(node.args[2], int):
        source, axis, start, *rest = node.args
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
    if node.target in _VALUE_PRESERVING_AT_SAME_SHAPE and same_shape(node, _input(node)):
        return _input(node)
    return None


def _drop_neutral_arithmetic(node: fx.Node) -> fx.Node | None:
    neutral = {
        aten.mul.Tensor: 1,
        aten.add.Tensor: 0,
        aten.sub.Tensor: 0,
        aten.div.Tensor: 1,
        aten.mul.Scalar: 1,
    }
    if node.target not in neutral or len(node.args) < 2 or node.kwargs:
        return None
    other = node.args[1]
    is_neutral = (
        isinstance(other, int | float) and not isinstance(other, bool) and other == neutral[node.target]
    )
    if is_neutral and isinstance(node.args[0], fx.Node) and _same_type(node, node.args[0]):
        return node.args[0]
    return None


def _square_is_product(node: fx.Node) -> fx.Node | None:
    is_square = node.target is aten.square.default or (
        node.target is aten.pow.Tensor_Scalar and node.args[1] == 2
    )
    if is_square and _same_type(node, _input(node)):
        return emit(node.graph, aten.mul.Tensor, _input(node), _input(node), like=node)
    return None


def _inverse_root_is_rsqrt(node: fx.Node) -> fx.Node | None:
    if node.target is aten.pow.Tensor_Scalar and node.args[1] == -0.5:
        return emit(node.graph, aten.rsqrt.default, _input(node), like=node)
    if node.target is aten.reciprocal.default and _is_root(node.args[0]):
        return emit(node.graph, aten.rsqrt.default, _root_argument(node.args[0]), like=node)
    return None


def _division_by_root_is_product(node: fx.Node) -> fx.Node | None:
    """x / sqrt(y) = x · rsqrt(y); x / c = x · (1 / c)."""
    if node.target is not aten.div.Tensor or node.kwargs:
        return None
    dividend, divisor = node.args
    if _is_root(divisor):
        root = emit(node.graph, aten.rsqrt.default, _root_argument(divisor), like=node)
        return emit(node.graph, aten.mul.Tensor, dividend, root, like=node)
    if isinstance(divisor, int | float) and divisor != 0 and _is_float(dividend):
        return emit(node.graph, aten.mul.Tensor, dividend, 1.0 / divisor, like=node)
    return None


def _is_root(value: Any) -> bool:
    return isinstance(value, fx.Node) and (
        value.target is aten.sqrt.default or (value.target is aten.pow.Tensor_Scalar and value.args[1] == 0.5)
    )


def _root_argument(value: Any) -> fx.Node:
    return _input(value)


def _transposed_is_transpose(node: fx.Node) -> fx.Node | None:
    """`t`, `mT` and a permutation that swaps two axes are `transpose`, the lower axis first."""
    if node.target in (aten.t.default, aten.numpy_T.default, aten.mT.default) and len(shape(node)) >= 2:
        return emit(node.graph, aten.transpose.int, _input(node), -2, -1, like=node)
    if node.target is aten.permute.default:
        rank = len(shape(node))
        moved = [(axis, source % rank) for axis, source in enumerate(node.args[1]) if axis != source % rank]
        if not moved:
            return _input(node)
        if len(moved) == 2:
            low, high = sorted(axis for axis, _ in moved)
            return emit(node.graph, aten.transpose.int, _input(node), low - rank, high - rank, like=node)
    if node.target is aten.transpose.int and node.args[1] > node.args[2]:
        return emit(node.graph, aten.transpose.int, _input(node), node.args[2], node.args[1], like=node)
    return None


def _transposed_twice_is_nothing(node: fx.Node) -> fx.Node | None:
    source = node.args[0] if node.target is aten.transpose.int else None
    is_second = isinstance(source, fx.Node) and source.target is aten.transpose.int
    again = is_second and source.args[1:] == node.args[1:]
    return _input(source) if again else None


def _product_with_weight_is_linear(node: fx.Node) -> fx.Node | None:
    """x @ w and addmm(b, x, w) with a parameter matrix w are linear(x, wᵀ, b)."""
    if node.target is aten.addmm.default and not node.kwargs:
        bias, x, matrix = node.args
    elif node.target in (aten.mm.default, aten.matmul.default):
        (x, matrix), bias = node.args, None
    else:
        return None
    if len(shape(matrix)) != 2 or not _is_weight(matrix):
        return None
    is_transposed = matrix.target is aten.transpose.int
    transposed = (
        _input(matrix) if is_transposed else emit(node.graph, aten.transpose.int, matrix, -2, -1, like=node)
    )
    arguments = (x, transposed) if bias is None else (x, transposed, bias)
    return emit(node.graph, aten.linear.default, *arguments, like=node)


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
        x, mask, value = node.args
        dtype = node.meta["val"].dtype
        value = float(value) if dtype.is_floating_point else value
        with node.meta["val"].fake_mode:
            fill = emit(node.graph, aten.scalar_tensor.default, value, dtype=dtype, like=node)
        return emit(node.graph, aten.where.self, mask, fill, x, like=node)
    return None


def _input(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _same_type(a: fx.Node, b: fx.Node) -> bool:
    return same_shape(a, b) and a.meta["val"].dtype == b.meta["val"].dtype


def _is_float(value: Any) -> bool:
    return (
        isinstance(value, fx.Node)
        and isinstance(value.meta["val"], Tensor)
        and value.meta["val"].is_floating_point()
    )


_RULES: tuple[Callable[[fx.Node], fx.Node | None], ...] = (
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


def _share_equal_nodes(graph: fx.Graph) -> None:
    """Common subexpressions are one node: the same operation on the same operands, once."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        key = _value_key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            replace(node, first)


def _value_key(node: fx.Node) -> Any:
    if node.op != "call_function" or not (
        node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)
    ):
        return None
    return (node.target, _freeze(node.args), _freeze(node.kwargs))


def _freeze(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _freeze(v)) for k, v in sorted(value.items()))
    return (type(value), value) if isinstance(value, bool | int | float) else value
