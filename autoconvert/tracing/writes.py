"""Writes in place become values: whoever reads what was written reads the new value.

A write into a view changes the tensor that it is a view of, and all its other views with it; each is made again where
it is read after a write. Graphs in which a write cannot be followed so are left to PyTorch's own way, which traces
everything once more.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments, first_operand, is_symbolic, shape

aten = torch.ops.aten


def _written(scatter: OpOverload) -> Callable[[fx.Node, fx.Node, fx.Node], fx.Node]:
    return lambda view, whole, part: emit(view.graph, scatter, whole, part, *arguments(view)[1:], like=view)


def _reshaped(view: fx.Node, whole: fx.Node, part: fx.Node) -> fx.Node:
    sizes = [
        emit(view.graph, aten.sym_size.int, whole, axis, like=view) if is_symbolic(size) else size
        for axis, size in enumerate(shape(whole))
    ]
    return emit(view.graph, aten.reshape.default, part, sizes, like=view)


def _permuted_back(view: fx.Node, _: fx.Node, part: fx.Node) -> fx.Node:
    order = [axis % len(shape(view)) for axis in arguments(view)[1]]
    return emit(view.graph, aten.permute.default, part, sorted(range(len(order)), key=order.__getitem__), like=view)


def _itself(_: fx.Node, __: fx.Node, part: fx.Node) -> fx.Node:
    return part


# From a view, what it is a view of and its own new value: the whole with that part written.
_WHOLE: dict[Any, Callable[[fx.Node, fx.Node, fx.Node], fx.Node]] = {
    aten.slice.Tensor: _written(aten.slice_scatter.default),
    aten.select.int: _written(aten.select_scatter.default),
    aten.view.default: _reshaped,
    aten.unsqueeze.default: _reshaped,
    aten.squeeze.dim: _reshaped,
    aten.alias.default: _itself,
    aten.to.dtype: _itself,
    aten.to.device: _itself,
    aten.transpose.int: lambda view, _, part: emit(view.graph, aten.transpose.int, part, *view.args[1:], like=view),
    aten.permute.default: _permuted_back,
}
# Named like a write, it changes no value.
_HARMLESS = {aten.detach_.default}


def without_writes(graph: fx.Graph) -> bool:
    """Rewrites the graph in place so that no operation writes; False, and no change, if one cannot be followed."""
    written = [node for node in graph.nodes if writes(node)]
    if not all(map(_is_covered, written)):
        return False
    for node in written:
        node.replace_all_uses_with(first_operand(node))
    _rewrite(graph, set(written))
    return True


def writes(node: fx.Node) -> bool:
    """Whether a call of an operation changes one of its operands."""
    is_operation = isinstance(node.target, OpOverload) and node.target not in _HARMLESS
    return is_operation and node.target._schema.is_mutable  # type: ignore[union-attr]


def _is_covered(node: fx.Node) -> bool:
    """The first operand alone is written: a tensor that the graph makes, all of whose views are known."""
    base = _base(node)
    return _as_value(node) is not None and base.op == "call_function" and _views_are_known(base, node)


def _as_value(write: fx.Node) -> OpOverload | None:
    """The operation that gives as a new value what this one writes into its first operand."""
    target: Any = write.target
    schema = target._schema
    changed = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    if target.namespace != "aten" or changed != [0] or torch.Tag.inplace_view in target.tags:
        return None
    name = schema.name.removeprefix("aten::")
    found = getattr(getattr(aten, name.removesuffix("_"), None), target._overloadname, None)
    if not name.endswith("_") or found is None:
        return None
    alike = [a.name for a in found._schema.arguments] == [a.name for a in schema.arguments]
    return found if alike and not found._schema.is_mutable else None


def _source(node: fx.Node) -> fx.Node | None:
    """What the node's value may be a view of; a write gives what it has written into."""
    if node.target is operator.getitem:
        return first_operand(node) if _source(first_operand(node)) is not None else None
    if not isinstance(node.target, OpOverload) or _is_cast(node):
        return None
    shares = any(result.alias_info is not None for result in node.target._schema.returns)
    return first_operand(node) if shares else None


def _is_cast(node: fx.Node) -> bool:
    """`to` gives the tensor itself where nothing changes."""
    return node.target.overloadpacket is aten.to and _kind(node) != _kind(first_operand(node))  # type: ignore[union-attr]


def _kind(node: fx.Node) -> tuple[torch.dtype, torch.device]:
    value = node.meta["val"]
    return value.dtype, value.device


def _base(node: fx.Node) -> fx.Node:
    source = _source(node)
    return node if source is None else _base(source)


def _views_are_known(whole: fx.Node, write: fx.Node) -> bool:
    """What may be a view or a copy is one value or the other only if it is made before the write and read after it."""
    for user in whole.users:
        if _source(user) is not whole or (user is not write and write < user):
            continue
        is_view = writes(user) or (user.target in _WHOLE and not user.kwargs and not any(a is True for a in user.args))
        if not (_views_are_known(user, write) if is_view else _is_read_before(user, write)):
            return False
    return True


def _is_read_before(view: fx.Node, write: fx.Node) -> bool:
    """Read at the latest by what is written, and not written itself."""
    return all(
        not write < user
        and (not writes(user) or first_operand(user) is not view)
        and (_source(user) is not view or _is_read_before(user, write))
        for user in view.users
    )


def _rewrite(graph: fx.Graph, written: set[fx.Node]) -> None:
    source = {node: _source(node) for node in graph.nodes}
    base = {node: _base(node) for node in graph.nodes}
    writes_to = dict.fromkeys((base[node] for node in written), 0)
    # What each view is by now, and how many writes to its base that value has seen.
    now: dict[fx.Node, tuple[fx.Node, int]] = {}

    def value(node: fx.Node) -> fx.Node:
        if base.get(node) not in writes_to:
            return node
        current, seen = now[node]
        if seen < writes_to[base[node]]:
            whole = source[node]
            assert whole is not None
            current = emit(graph, node.target, value(whole), *arguments(node)[1:], like=node)  # type: ignore[arg-type]
            now[node] = current, writes_to[base[node]]
        return current

    def write(view: fx.Node, part: fx.Node) -> None:
        changed = {view: part}
        while (whole := source[view]) is not None:
            part = _WHOLE[view.target](view, value(whole), part)
            changed[whole] = part
            view = whole
        writes_to[view] += 1
        now.update({node: (new, writes_to[view]) for node, new in changed.items()})

    for node in list(graph.nodes):
        operand = first_operand(node) if node in written else None
        with graph.inserting_before(node):
            node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), value)
            if operand is not None:
                write(operand, _new_value(node, operand))
                graph.erase_node(node)
            elif base[node] in writes_to:
                now[node] = node, writes_to[base[node]]


def _new_value(write: fx.Node, operand: fx.Node) -> fx.Node:
    """What the operand holds after the write, in its own type."""
    operation, dtype = _as_value(write), operand.meta["val"].dtype
    assert operation is not None
    new = emit(write.graph, operation, *write.args, like=write, **write.kwargs)
    if new.meta["val"].dtype == dtype:
        return new
    return emit(write.graph, aten._to_copy.default, new, dtype=dtype, like=write)
