"""Materialize positions: what depends on positions alone is evaluated, at the full context, and becomes a table.

A table with one sequence axis is read at `input_pos`. What attention takes as its mask is classified: causal, with a
window or in chunks, which become attributes of the attention; numbers added to the scores become its bias.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.binding_times import Time, binding_times, frontier
from autoconvert.analysis.invariants import POSITIONS_MATERIALIZED, WHOLE_TEXT
from autoconvert.analysis.masks import Mask, classify_mask, joined
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.editing import add_constant, emit, finish, infer, set_arguments
from autoconvert.ir.interface import Role, port_of
from autoconvert.ir.nodes import is_symbolic, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.passes.pair_tables import hint_outside_attention, looked_up, slot_numbers
from autoconvert.passes.position_tables import (
    LARGEST_TABLE,
    evaluate,
    evaluate_heads,
    fits,
    is_mask_of,
    is_relative,
    later_users,
    rows_at,
)
from autoconvert.rewrite.pass_manager import Pass

aten = torch.ops.aten

# Operations that read rows of a table by number, with the names of both operands.
_LOOKUPS = {
    aten.embedding.default: ("weight", "indices"),
    aten.index.Tensor: ("self", "indices"),
    aten.index_select.default: ("self", "index"),
    aten.gather.default: ("self", "index"),
}


def materialize_positions(program: Program, context: int) -> Program:
    """Replaces `positions` int64 [1, s] by `input_pos` int32 [s], and what is computed from it by tables.

    What each call has as a whole keeps its positions: they are constants as soon as its length is one.

    Raises:
        Refused: a value depends on how long the sequence is and not only on the position, or a mask is neither
            causal nor a window.
    """
    if program.streamed is None:
        return program
    graph, positions = program.graph, program.input(Role.POSITIONS)
    times = binding_times(program)
    nodes = [node for node in frontier(graph.graph, times, Time.POSITION) if _is_table(node)]
    wide = {node: masks for node in nodes if (masks := _masks_by_head(program, node, times, context)) is not None}
    nodes = [node for node in nodes if node not in wide]
    tables = evaluate(program, nodes, times, context)
    input_pos = _input_pos(graph.graph, positions)
    for node, masks in wide.items():
        _materialize_mask(graph, node, masks, context, later_users(node, times), input_pos)
    for node, table in zip(nodes, tables, strict=True):
        users = later_users(node, times)
        _refuse_rows_beyond(node, table, users, context)
        axes = [axis - len(shape(node)) for axis, size in enumerate(shape(node)) if is_symbolic(size)]
        if masked := [user for user in users if is_mask_of(node, user)]:
            masks = {relative: classify_mask(table, relative) for relative in set(map(is_relative, masked))}
            _materialize_mask(graph, node, masks, context, masked, input_pos)
            users = [user for user in users if user not in masked]
        if len(axes) == 1 and users and not shape(node)[axes[0]].node.expr.is_Symbol:  # type: ignore[union-attr]
            raise Inseparable(f"{location(users[0])} uses a table that has several entries for each position.")
        if len(axes) == 1 and users:
            _materialize_rows(graph, node, table, axes[0], input_pos)
        elif users and axes:
            raise Inseparable(
                f"{location(users[0])} uses a mask over the whole sequence outside a fused attention.",
                hint=hint_outside_attention(users[0]),
                at=users[0].name,
            )
        elif users:
            _materialize_constant(graph, node, table)
    graph.graph.eliminate_dead_code()
    _drop_positions(graph.graph, positions, input_pos)
    inputs = [port for port in program.inputs if port.role is not Role.POSITIONS]
    inputs.append(port_of(input_pos, str(input_pos.target), Role.INPUT_POS, program.symbols))
    return dataclasses.replace(program, graph=finish(graph), inputs=tuple(inputs))


def _is_table(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _refuse_rows_beyond(node: fx.Node, table: Tensor, users: list[fx.Node], context: int) -> None:
    """A device reads on behind the last row, where PyTorch raises."""
    for user in users:
        for rows in _rows_looked_up(user, node):
            if isinstance(rows, int) and int(table.max()) >= rows:
                beyond = (table.reshape(-1, table.shape[-1]) >= rows).any(0)
                first = int(beyond.nonzero()[0]) if is_symbolic(shape(node)[-1]) else 0
                raise Refused(
                    f"With {context} positions, {location(user)} looks up row {int(table.max())} of a table of {rows}.",
                    hint=f"The model has learned fewer positions: choose --context {first} or less."
                    if first
                    else "The model has learned fewer positions: choose a smaller --context.",
                    shorter=first or None,
                    at=user.name,
                )


def _rows_looked_up(user: fx.Node, indices: fx.Node) -> list[Any]:
    """The sizes of the axes that `user` looks up by `indices`."""
    if user.target not in _LOOKUPS:
        return []
    arguments = named_arguments(user)
    if user.target is aten.index.Tensor:
        return [shape(arguments["self"])[axis] for axis, given in enumerate(arguments["indices"]) if given is indices]
    table, given = _LOOKUPS[user.target]
    axis = arguments.get("dim", 0)
    return [shape(arguments[table])[axis]] if arguments[given] is indices else []


def _input_pos(graph: fx.Graph, positions: fx.Node) -> fx.Node:
    with graph.inserting_after(positions):
        node = graph.placeholder(Role.INPUT_POS.value)
    with positions.meta["val"].fake_mode:
        node.meta["val"] = positions.meta["val"].reshape(-1).to(torch.int32)
    return node


def _drop_positions(graph: fx.Graph, positions: fx.Node, input_pos: fx.Node) -> None:
    """What is left of `positions` are lengths, which `input_pos` has as well."""
    for user in list(positions.users):
        if user.target is not aten.sym_size.int:
            raise Refused(f"{location(user)} uses positions in a way that no table covers.")
        user.args = (input_pos, -1)
        user.meta["val"] = infer(user)
    graph.erase_node(positions)


def _materialize_constant(graph: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    with graph.graph.inserting_before(_first_user(node)):
        constant = add_constant(graph, f"table_{node.name}", value, node)
    _replace_users(node, constant)


def _materialize_rows(graph: fx.GraphModule, node: fx.Node, table: Tensor, axis: int, input_pos: fx.Node) -> None:
    """Rows of a matrix [context, everything else] by position, in the shape that they had."""
    order = graph.graph
    sizes = [-1 if is_symbolic(size) else size for size in shape(node)]
    with order.inserting_before(_first_user(node)):
        if not table.is_floating_point() and torch.equal(table.flatten(), torch.arange(table.numel())):
            rows = emit(order, aten.reshape.default, input_pos, sizes, like=node)
        else:
            rows = rows_at(graph, f"table_{node.name}", table.movedim(axis, 0), input_pos, node)
            if any(size != 1 for size in sizes[:axis]):
                rows = emit(order, aten.reshape.default, rows, [-1, *sizes[:axis], *sizes[axis:][1:]], like=node)
                back = [index + 1 for index in range(len(sizes) - 1)]
                back.insert(axis % len(sizes), 0)
                rows = emit(order, aten.permute.default, rows, back, like=node)
            else:
                rows = emit(order, aten.reshape.default, rows, sizes, like=node)
    _replace_users(node, rows)


def _first_user(node: fx.Node) -> fx.Node:
    return next(n for n in node.graph.nodes if n in node.users)


def _replace_users(node: fx.Node, new: fx.Node) -> None:
    """Later uses of `node` become uses of `new`; the node goes with the dead code."""
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _masks_by_head(
    program: Program, node: fx.Node, times: dict[fx.Node, Time], context: int
) -> dict[bool, Mask | str] | None:
    """What a mask is whose heads do not fit together, by whether the softmax is relative; None for others."""
    users = later_users(node, times)
    if fits(node, context) or not users or not all(is_mask_of(node, user) for user in users):
        return None
    if (tables := evaluate_heads(program, node, times, context)) is None:
        return None
    kinds = set(map(is_relative, users))
    found = [{relative: classify_mask(table, relative) for relative in kinds} for table in tables]
    return {relative: joined([masks[relative] for masks in found]) for relative in kinds}


def _materialize_mask(
    graph: fx.GraphModule,
    node: fx.Node,
    masks: Mapping[bool, Mask | str],
    context: int,
    users: list[fx.Node],
    input_pos: fx.Node,
) -> None:
    """The mask becomes attributes of the attentions in `users`, and a bias where it is more than those say.

    `masks` says what it is, for attentions whose softmax is relative and for those where it is not.
    """
    for relative in (True, False):
        attentions = [user for user in users if is_relative(user) is relative]
        if not attentions:
            continue
        mask = masks[relative]
        if isinstance(mask, str):
            raise Refused(f"The attention at {location(attentions[0])} has a mask that is {mask}.")
        with graph.graph.inserting_before(next(n for n in graph.graph.nodes if n in attentions)):
            bias = _bias(graph, f"{node.name}_{relative}", mask, context, input_pos, node)
        attributes = {"window": mask.window, "chunk_size": mask.chunk_size, "bias": bias}
        for user in attentions:
            set_arguments(user, mask=None, causal=True, **attributes)


def _bias(
    graph: fx.GraphModule, name: str, mask: Mask, context: int, input_pos: fx.Node, like: fx.Node
) -> fx.Node | None:
    """[1, heads or 1, s, slots]: slopes times distances, a number for each distance, or rows of a table."""
    order, numbers = graph.graph, (mask.slopes, mask.distances, mask.table)
    if all(each is None for each in numbers):
        return None
    heads = next(each.shape[0] for each in numbers if each is not None)
    slots = slot_numbers(graph, context, like)
    if mask.table is not None:
        _refuse_large(mask.table, like)
        rows = rows_at(graph, f"table_{name}", mask.table.transpose(0, 1), input_pos, like)
        rows = emit(order, aten.reshape.default, rows, [1, -1, heads, context], like=like)
        rows = emit(order, aten.index_select.default, rows, -1, slots, like=like)
        return emit(order, aten.transpose.int, rows, 1, 2, like=like)
    rows = emit(order, aten.reshape.default, input_pos, [1, 1, -1, 1], like=like)
    columns = emit(order, aten.reshape.default, slots, [1, 1, 1, -1], like=like)
    if mask.slopes is not None:
        rows, columns = (
            emit(order, aten._to_copy.default, each, dtype=torch.float32, like=like) for each in (rows, columns)
        )
        distance = emit(order, aten.sub.Tensor, columns, rows, like=like)
        slopes = add_constant(graph, f"slopes_{name}", mask.slopes.reshape(1, -1, 1, 1), like)
        return emit(order, aten.mul.Tensor, distance, slopes, like=like)
    assert mask.distances is not None
    # What is later is hidden, whatever stands there.
    distance = emit(order, aten.clamp_min.default, emit(order, aten.sub.Tensor, rows, columns, like=like), 0, like=like)
    wide = [1] if heads > 1 else []
    return looked_up(graph, f"distances_{name}", mask.distances.T.contiguous(), distance, wide, like)


def _refuse_large(table: Tensor, like: fx.Node) -> None:
    if table.nbytes > LARGEST_TABLE:
        heads, context = table.shape[:2]
        raise Refused(
            f"The bias at {location(like)} is a table of {heads} · {context}² numbers that follow no known rule.",
            hint=f"Choose a context of at most {int((LARGEST_TABLE / 4 / heads) ** 0.5)} with --context.",
        )


PASS = Pass(
    "materialize-positions",
    "What depends on positions alone is evaluated, at the full context, and becomes a table.",
    lambda program, options: materialize_positions(program, options.context),
    requires=(WHOLE_TEXT,),
    ensures=(POSITIONS_MATERIALIZED,),
    changes_ports=True,
)
