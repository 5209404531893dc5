"""Bind positions: what depends on positions alone is evaluated, at the full context, and becomes a table.

A table with one sequence axis is read at `input_pos`. A table with two is an attention mask, which is recognised
as causal, or causal with a window, and becomes an attribute of the attention that uses it.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.binding_times import Time, binding_times, frontier
from autoconvert.analysis.regions import extract
from autoconvert.errors import Refused
from autoconvert.program import Program
from autoconvert.rewriting import emit, finish, infer, is_symbolic, shape, where
from autoconvert.trace import POSITIONS

aten = torch.ops.aten

INPUT_POS = "input_pos"

# A mask of context² booleans and its intermediates must fit beside everything else.
_LONGEST_MASK = 16384
# exp of anything below is 0 in float32 beside a score of ordinary size, so the position is hidden.
_HIDDEN = -1e4


@dataclass(frozen=True)
class CausalMask:
    """What a mask table turned out to be; `window` 0 means everything before."""

    window: int


def bind_positions(program: Program, context: int) -> Program:
    """Replaces `positions` int64 [1, s] by `input_pos` int32 [s], and what is computed from it by tables.

    Raises:
        Refused: a value depends on how long the sequence is and not only on the position, or a mask is neither
            causal nor a window.
    """
    graph = program.graph
    times = binding_times(graph.graph)
    nodes = [node for node in frontier(graph.graph, times, Time.POSITION) if _is_table(node)]
    tables = _evaluate(graph, nodes, context)
    positions = graph.graph.find_nodes(op="placeholder", target=POSITIONS)[0]
    input_pos = _input_pos(graph.graph, positions)
    for node, table in zip(nodes, tables, strict=True):
        axes = [axis - len(shape(node)) for axis, size in enumerate(shape(node)) if is_symbolic(size)]
        if len(axes) == 2:
            _bind_mask(node, table, [user for user in node.users if times[user] is not Time.POSITION])
        elif len(axes) == 1:
            _bind_rows(graph, node, table, axes[0], input_pos)
        else:
            _bind_constant(graph, node, table)
    graph.graph.eliminate_dead_code()
    _drop_positions(graph, input_pos)
    return dataclasses.replace(program, graph=finish(graph), context=context)


def _is_table(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _evaluate(graph: fx.GraphModule, nodes: list[fx.Node], context: int) -> list[Tensor]:
    masks = [node for node in nodes if sum(map(is_symbolic, shape(node))) == 2]
    if masks and context > _LONGEST_MASK:
        raise Refused(
            f"The mask at {where(masks[0])} would need {context}² entries to be evaluated.",
            hint=f"Choose a context of at most {_LONGEST_MASK} with --context.",
        )
    region = extract(graph, nodes)
    tables = _run(region, context)
    # A value that changes when the sequence grows is no function of the position.
    for shorter in _shorter_lengths(context):
        for node, table, part in zip(nodes, tables, _run(region, shorter), strict=True):
            leading = table[tuple(slice(0, size) for size in part.shape)]
            if leading.shape != part.shape or not torch.equal(leading, part):
                raise Refused(
                    f"The value of {where(node)} at one position depends on how long the sequence is "
                    f"(it differs between lengths {shorter} and {context}).",
                    hint="A shorter --context may lie in the range where it does not.",
                )
    return tables


def _shorter_lengths(context: int) -> list[int]:
    """Every small length, and both sides of each power of two: a threshold shows between two of them."""
    powers = [2**exponent for exponent in range(1, context.bit_length())]
    around = {power + step for power in powers for step in (-1, 0, 1)}
    return sorted(n for n in {*range(2, 18), *around, context // 2, context - 1} if 2 <= n < context)


def _run(region: fx.GraphModule, length: int) -> list[Tensor]:
    inputs = {POSITIONS: torch.arange(length)[None], "tokens": torch.zeros(1, length, dtype=torch.int64)}
    names = [str(node.target) for node in region.graph.find_nodes(op="placeholder")]
    with torch.no_grad():
        return list(region(*(inputs[name] for name in names)))


def _input_pos(graph: fx.Graph, positions: fx.Node) -> fx.Node:
    with graph.inserting_after(positions):
        node = graph.placeholder(INPUT_POS)
    with positions.meta["val"].fake_mode:
        node.meta["val"] = positions.meta["val"].reshape(-1).to(torch.int32)
    return node


def _drop_positions(graph: fx.GraphModule, input_pos: fx.Node) -> None:
    """What is left of `positions` are lengths, which `input_pos` has as well."""
    positions = graph.graph.find_nodes(op="placeholder", target=POSITIONS)[0]
    for user in list(positions.users):
        if user.target is not aten.sym_size.int:
            raise Refused(f"{where(user)} uses positions in a way that no table covers.")
        user.args = (input_pos, -1)
        user.meta["val"] = infer(user)
    graph.graph.erase_node(positions)


def _bind_constant(graph: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    _replace_users(node, _constant(graph, node, value))


def _bind_rows(graph: fx.GraphModule, node: fx.Node, table: Tensor, axis: int, input_pos: fx.Node) -> None:
    """Rows of a matrix [context, everything else] by position, in the shape that they had."""
    order = graph.graph
    sizes = [-1 if is_symbolic(size) else size for size in shape(node)]
    with order.inserting_before(_first_user(node)):
        if torch.equal(table.flatten(), torch.arange(table.numel())):
            rows = emit(order, aten.reshape.default, input_pos, sizes, like=node)
        else:
            before = sizes[:axis]
            if any(size != 1 for size in before):
                raise Refused(f"The table of positions at {where(node)} has axes of size {before} before the sequence.")
            matrix = _constant(graph, node, _narrow(table).reshape(table.shape[axis], -1))
            rows = emit(order, aten.embedding.default, matrix, input_pos, like=node)
            rows = emit(order, aten.reshape.default, rows, sizes, like=node)
    _replace_users(node, rows)


def _narrow(table: Tensor) -> Tensor:
    """Indices fit int32, which is what the device computes with."""
    return table.to(torch.int32) if table.dtype == torch.int64 else table.contiguous()


def _constant(graph: fx.GraphModule, node: fx.Node, value: Tensor) -> fx.Node:
    name = f"table_{node.name}"
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(_first_user(node)):
        constant = graph.graph.get_attr(name)
    constant.meta = dict(node.meta)
    constant.meta["val"] = node.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
    return constant


def _first_user(node: fx.Node) -> fx.Node:
    return next(n for n in node.graph.nodes if n in node.users)


def _replace_users(node: fx.Node, new: fx.Node) -> None:
    """Later uses of `node` become uses of `new`; the node goes with the dead code."""
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _bind_mask(node: fx.Node, table: Tensor, users: list[fx.Node]) -> None:
    for user in users:
        if user.target is not ops.attention or user.args[3] is not node:
            raise Refused(
                f"{where(user)} uses a mask over the whole sequence outside a recognised attention.",
                hint="No pattern recognised the attention around it; see the nearest pattern's reason above.",
            )
        mask = recognise_mask(table)
        if isinstance(mask, str):
            raise Refused(f"The attention at {where(user)} has a mask that is {mask}.")
        query, key, value, _, scale, *_ = user.args
        user.args = (query, key, value, None, scale, True, mask.window)


def recognise_mask(table: Tensor) -> CausalMask | str:
    """Names a mask [..., length, length], bool (True attends) or additive; or says what it is instead."""
    length = table.shape[-1]
    if table.numel() != length * length:
        return "different for each head"
    table = table.reshape(length, length)
    if table.dtype == torch.bool:
        allowed = table
    elif bool(((table == 0) | (table <= _HIDDEN)).all()):
        allowed = table == 0
    else:
        return "neither open nor closed at each position, but a bias"
    causal = torch.ones(length, length, dtype=torch.bool).tril_()
    if torch.equal(allowed, causal):
        return CausalMask(window=0)
    window = int(allowed[-1].sum())
    if window and torch.equal(allowed, causal.triu_(1 - window)):
        return CausalMask(window=window)
    if bool(allowed.triu(1).any()):
        return "not causal: a position sees later ones"
    return "neither causal nor a sliding window"
