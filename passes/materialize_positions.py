"""Materialize positions: what depends on positions alone is evaluated, at the full context, and becomes a table.

A table with one sequence axis is read at `input_pos`. What attention takes as its mask is classified: causal, with a
window or in chunks, which become attributes of the attention; numbers added to the scores become its bias.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.binding_times import Time, binding_times, frontier
from autoconvert.analysis.constants import same_constant
from autoconvert.analysis.invariants import POSITIONS_MATERIALIZED, WHOLE_TEXT
from autoconvert.analysis.masks import Mask, classify_mask, same_mask
from autoconvert.analysis.op_traits import FILLS
from autoconvert.analysis.regions import extract
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.editing import add_constant, emit, finish, infer, set_arguments
from autoconvert.ir.interface import Role, port_of
from autoconvert.ir.nodes import concrete, first_operand, is_symbolic, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.rewrite.pass_manager import Pass

aten = torch.ops.aten

# Operations that read rows of a table by number, with the names of both operands.
_LOOKUPS = {
    aten.embedding.default: ("weight", "indices"),
    aten.index.Tensor: ("self", "indices"),
    aten.index_select.default: ("self", "index"),
    aten.gather.default: ("self", "index"),
}
# A mask of heads · context² numbers and its intermediates must fit beside everything else.
_LONGEST_MASK = 16384
# A bias that has no closed form is a constant of the file.
_LARGEST_TABLE = 256 << 20


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
    _fill_by_positions(program, positions)
    times = binding_times(program)
    nodes = [node for node in frontier(graph.graph, times, Time.POSITION) if _is_table(node)]
    tables = _evaluate(program, nodes, times, context)
    input_pos = _input_pos(graph.graph, positions)
    for node, table in zip(nodes, tables, strict=True):
        users = _later_users(node, times)
        _refuse_rows_beyond(node, table, users, context)
        axes = [axis - len(shape(node)) for axis, size in enumerate(shape(node)) if is_symbolic(size)]
        if masked := [user for user in users if _is_mask_of(node, user)]:
            _materialize_mask(graph, node, table, masked, input_pos)
            users = [user for user in users if user not in masked]
        if len(axes) == 1 and users:
            _materialize_rows(graph, node, table, axes[0], input_pos)
        elif users and axes:
            raise Inseparable(
                f"{location(users[0])} uses a mask over the whole sequence outside a fused attention.",
                hint="No pattern matched the attention around it.",
                at=users[0].name,
            )
        elif users:
            _materialize_constant(graph, node, table)
    graph.graph.eliminate_dead_code()
    _drop_positions(graph.graph, positions, input_pos)
    inputs = [port for port in program.inputs if port.role is not Role.POSITIONS]
    inputs.append(port_of(input_pos, str(input_pos.target), Role.INPUT_POS, program.symbols))
    return dataclasses.replace(program, graph=finish(graph), inputs=tuple(inputs))


def _fill_by_positions(program: Program, positions: fx.Node) -> None:
    """What is filled in the shape of activations is known with the positions, where all its users are as well."""
    graph = program.graph.graph
    sources: dict[fx.Node, fx.Node] = {}
    for node in [node for node in graph.nodes if node.target in FILLS]:
        source = first_operand(node)
        with graph.inserting_before(node):
            like = _in_the_shape_of(source, positions)
        if like is not None:
            sources[node] = source
            node.replace_input_with(source, like)
    times = binding_times(program)
    for node, source in sources.items():
        if any(times[user] is Time.TOKEN for user in node.users):
            node.replace_input_with(first_operand(node), source)
    graph.eliminate_dead_code()


def _in_the_shape_of(source: fx.Node, positions: fx.Node) -> fx.Node | None:
    """A value of positions alone with the shape and the type of `source`, if that has the sequence once."""
    sizes = [-1 if is_symbolic(size) else size for size in shape(source)]
    if [str(size) for size in shape(source) if is_symbolic(size)] != [str(shape(positions)[-1])]:
        return None
    rows = emit(positions.graph, aten.reshape.default, positions, [min(size, 1) for size in sizes], like=source)
    rows = emit(positions.graph, aten.expand.default, rows, sizes, like=source)
    return emit(positions.graph, aten._to_copy.default, rows, dtype=source.meta["val"].dtype, like=source)


def _is_table(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _later_users(node: fx.Node, times: dict[fx.Node, Time]) -> list[fx.Node]:
    return [user for user in node.users if times.get(user) is not Time.POSITION]


def _is_mask_of(node: fx.Node, user: fx.Node) -> bool:
    return user.target is ops.attention and named_arguments(user)["mask"] is node


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


def _evaluate(program: Program, nodes: list[fx.Node], times: dict[fx.Node, Time], context: int) -> list[Tensor]:
    for node in nodes:
        longest = int(_LONGEST_MASK / math.prod(size for size in shape(node) if not is_symbolic(size)) ** 0.5)
        if sum(map(is_symbolic, shape(node))) == 2 and context > longest:
            raise Refused(
                f"The mask at {location(node)} would need {context}² entries for each head to be evaluated.",
                hint=f"Choose a context of at most {longest} with --context.",
            )
    region = extract(program.graph, nodes)
    tables = _run(region, program.roles, context)

    def changed(tables: list[Tensor], shorter: int) -> fx.Node | None:
        """The first node whose value for a text of length `shorter` is not how its table begins."""
        pairs = zip(nodes, tables, _run(region, program.roles, shorter), strict=True)
        return next((node for node, table, part in pairs if not _begins_with(node, table, part, times)), None)

    # A value that changes when the sequence grows is no function of the position.
    for shorter in _shorter_lengths(context):
        if (different := changed(tables, shorter)) is not None:
            most = _longest_alike(
                context, lambda long, short: changed(_run(region, program.roles, long), short) is None
            )
            raise Refused(
                f"The value of {location(different)} at one position depends on how long the sequence is "
                f"(it differs between lengths {shorter} and {context}).",
                hint=f"It does not up to {most} positions: choose --context {most} or less." if most else "",
                shorter=most,
            )
    return tables


def _begins_with(node: fx.Node, table: Tensor, part: Tensor, times: dict[fx.Node, Time]) -> bool:
    """Whether the value of `node` for a long text says of the first positions what `part`, of a shorter one, does."""
    leading = table[tuple(slice(0, size) for size in part.shape)]
    return same_constant(leading, part) or _same_for_attention(table, part, _later_users(node, times), node)


def _longest_alike(context: int, alike: Callable[[int, int], bool]) -> int | None:
    """The longest length below `context` that is like all shorter ones; None where that is the shortest of all."""
    longest = bisect.bisect_left(range(context), True, lo=3, key=lambda length: not alike(length, 2)) - 1
    is_alike = longest > 2 and all(alike(longest, length) for length in _shorter_lengths(longest))
    return longest if is_alike else None


def _same_for_attention(table: Tensor, part: Tensor, users: list[fx.Node], node: fx.Node) -> bool:
    """A mask may change with the length by what changes no softmax (MPT counts the distance from the last key)."""
    if not users or not all(_is_mask_of(node, user) for user in users):
        return False
    return same_mask(table, part, relative=all(_is_relative(user) for user in users))


def _is_relative(attention: fx.Node) -> bool:
    return named_arguments(attention)["sinks"] is None


def _shorter_lengths(context: int) -> list[int]:
    """Every small length, and both sides of each power of two: a threshold shows between two of them."""
    powers = [2**exponent for exponent in range(1, context.bit_length())]
    around = {power + step for power in powers for step in (-1, 0, 1)}
    return sorted(n for n in {*range(2, 18), *around, context // 2, context - 1} if 2 <= n < context)


def _run(region: fx.GraphModule, roles: Mapping[str, Role], length: int) -> list[Tensor]:
    """The values of `region` for a text of `length`; of other inputs than positions only the shape counts."""

    def value(node: fx.Node) -> Tensor:
        if roles[str(node.target)] is Role.POSITIONS:
            return torch.arange(length)[None]
        return torch.zeros([concrete(size, length) for size in shape(node)], dtype=node.meta["val"].dtype)

    with torch.no_grad():
        return list(region(*map(value, region.graph.find_nodes(op="placeholder"))))


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
        if same_constant(table.flatten(), torch.arange(table.numel())):
            rows = emit(order, aten.reshape.default, input_pos, sizes, like=node)
        else:
            rows = _rows(graph, f"table_{node.name}", table.movedim(axis, 0), input_pos, node)
            if any(size != 1 for size in sizes[:axis]):
                rows = emit(order, aten.reshape.default, rows, [-1, *sizes[:axis], *sizes[axis:][1:]], like=node)
                back = [index + 1 for index in range(len(sizes) - 1)]
                back.insert(axis % len(sizes), 0)
                rows = emit(order, aten.permute.default, rows, back, like=node)
            else:
                rows = emit(order, aten.reshape.default, rows, sizes, like=node)
    _replace_users(node, rows)


def _rows(graph: fx.GraphModule, name: str, table: Tensor, input_pos: fx.Node, like: fx.Node) -> fx.Node:
    """The rows of a table [context, ...] at `input_pos`, as a matrix."""
    matrix = add_constant(graph, name, _narrow(table).reshape(table.shape[0], -1), like)
    return emit(graph.graph, aten.embedding.default, matrix, input_pos, like=like)


def _narrow(table: Tensor) -> Tensor:
    """Indices fit int32, which is what the device computes with."""
    return table.to(torch.int32) if table.dtype == torch.int64 else table


def _first_user(node: fx.Node) -> fx.Node:
    return next(n for n in node.graph.nodes if n in node.users)


def _replace_users(node: fx.Node, new: fx.Node) -> None:
    """Later uses of `node` become uses of `new`; the node goes with the dead code."""
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _materialize_mask(
    graph: fx.GraphModule, node: fx.Node, table: Tensor, users: list[fx.Node], input_pos: fx.Node
) -> None:
    """The mask becomes attributes of the attentions in `users`, and a bias where it is more than those say."""
    for relative in (True, False):
        attentions = [user for user in users if _is_relative(user) is relative]
        if not attentions:
            continue
        mask = classify_mask(table, relative)
        if isinstance(mask, str):
            raise Refused(f"The attention at {location(attentions[0])} has a mask that is {mask}.")
        with graph.graph.inserting_before(next(n for n in graph.graph.nodes if n in attentions)):
            bias = _bias(graph, f"{node.name}_{relative}", mask, table.shape[-1], input_pos, node)
        attributes = {"window": mask.window, "chunk_size": mask.chunk_size, "bias": bias}
        for user in attentions:
            set_arguments(user, mask=None, causal=True, **attributes)


def _bias(
    graph: fx.GraphModule, name: str, mask: Mask, context: int, input_pos: fx.Node, like: fx.Node
) -> fx.Node | None:
    """[1, heads or 1, s, context]: slopes times distances, or rows of a table."""
    order = graph.graph
    if mask.slopes is not None:
        rows = emit(order, aten._to_copy.default, input_pos, dtype=torch.float32, like=like)
        rows = emit(order, aten.reshape.default, rows, [1, 1, -1, 1], like=like)
        slots = add_constant(graph, f"slots_{name}", torch.arange(context, dtype=torch.float32), like)
        distance = emit(order, aten.sub.Tensor, slots, rows, like=like)
        slopes = add_constant(graph, f"slopes_{name}", mask.slopes.reshape(1, -1, 1, 1), like)
        return emit(order, aten.mul.Tensor, distance, slopes, like=like)
    if mask.table is None:
        return None
    heads = mask.table.shape[0]
    if mask.table.nbytes > _LARGEST_TABLE:
        raise Refused(
            f"The bias at {location(like)} is a table of {heads} · {context}² numbers that follow no known rule.",
            hint=f"Choose a context of at most {int((_LARGEST_TABLE / 4 / heads) ** 0.5)} with --context.",
        )
    rows = _rows(graph, f"table_{name}", mask.table.transpose(0, 1), input_pos, like)
    if heads == 1:
        return emit(order, aten.reshape.default, rows, [1, 1, -1, context], like=like)
    rows = emit(order, aten.reshape.default, rows, [1, -1, heads, context], like=like)
    return emit(order, aten.transpose.int, rows, 1, 2, like=like)


PASS = Pass(
    "materialize-positions",
    "What depends on positions alone is evaluated, at the full context, and becomes a table.",
    lambda program, options: materialize_positions(program, options.context),
    requires=(WHOLE_TEXT,),
    ensures=(POSITIONS_MATERIALIZED,),
    changes_ports=True,
)
