"""Hoist projections: what is computed from the history of each position alone is the history of what it computes.

Latent attention keeps small latents and projects all of them to keys and values at every step (DeepSeek-V2,
https://arxiv.org/abs/2405.04434, section 2.1). Where the projection is proven to treat the slots one by one, it moves
through the cache: each position is projected once, and the cache holds the result.
"""

from dataclasses import dataclass

import torch
from torch import fx
from torch.export import Dim
from torch.fx.node import map_aggregate

from autoconvert import ops
from autoconvert.analysis.invariants import NOTHING_OUTSIDE, PROJECTIONS_HOISTED
from autoconvert.analysis.layouts import Layout
from autoconvert.analysis.recurrences import is_size
from autoconvert.analysis.sequence_axis import check_separate
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.editing import emit, finish, infer, set_arguments
from autoconvert.ir.nodes import concrete, first_operand, named_arguments, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.tracing.exported import export
from autoconvert.tracing.untraceable import is_ours

_SLOTS = -2


def hoist_projections(program: Program) -> Program:
    """Keys and values of attention in a single step become histories where they are computed from histories.

    Raises:
        Refused: what is computed from histories mixes their slots.
    """
    graph = program.graph.graph
    if not graph.find_nodes(op="call_function", target=ops.history):
        return program
    for attention in graph.find_nodes(op="call_function", target=ops.attention):
        given = named_arguments(attention)
        computed = {name: given[name] for name in ("key", "value") if given[name].target is not ops.history}
        region = _from_histories(graph, list(computed.values()))
        if not region.nodes or not all(result in region.nodes for result in region.results):
            continue
        _prove_separate(program, region, attention)
        with graph.inserting_before(attention):
            moved = _moved(region)
        set_arguments(attention, **dict(zip(computed, moved, strict=True)))
    return program.with_graph(finish(program.graph))


@dataclass(frozen=True)
class _Region:
    """The `nodes` that compute `results` from `histories`, in the graph's order, and what they take from `outside`."""

    nodes: list[fx.Node]
    results: list[fx.Node]
    histories: list[fx.Node]
    outside: list[fx.Node]


def _from_histories(graph: fx.Graph, results: list[fx.Node]) -> _Region:
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if any(source.target is ops.history or source in after for source in node.all_input_nodes):
            after.add(node)
    needed = set(results)
    for node in reversed(graph.nodes):
        if node in needed and node in after:
            needed.update(node.all_input_nodes)
    nodes = [node for node in graph.nodes if node in needed and node in after and not is_size(node)]
    operands = list(dict.fromkeys(operand for node in nodes for operand in node.all_input_nodes))
    histories = [node for node in operands if node.target is ops.history]
    return _Region(nodes, results, histories, [node for node in operands if node not in (*nodes, *histories)])


def _prove_separate(program: Program, region: _Region, attention: fx.Node) -> None:
    """The region with the number of slots as a symbol, at whose value in the trace it is what the trace has."""
    histories = region.histories
    if len({history.args[1] for history in histories}) != 1:
        raise Refused(f"{location(attention)} looks back on histories of several lengths.")
    slots = histories[0].args[1]
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node | int] = {h: graph.placeholder(f"history_{i}") for i, h in enumerate(histories)}
    for node in region.outside:
        if is_size(node):
            copies[node] = concrete(node.meta["val"], 1)
        elif node.target in program.weights or node.op == "get_attr":
            copies[node] = graph.placeholder(node.name)
        else:
            raise Refused(f"{location(attention)} looks back on more than histories and weights: {location(node)}.")
    count = graph.call_function(torch.ops.aten.sym_size.int, (copies[histories[0]], _SLOTS))
    for node in region.nodes:
        _copy(graph, node, copies, slots, count)
    graph.output(tuple(copies[result] for result in region.results))
    inputs = [*histories, *(node for node in region.outside if not is_size(node))]
    examples = [
        torch.empty([concrete(size, 1) for size in shape(node)], dtype=node.meta["val"].dtype, device="meta")
        for node in inputs
    ]
    symbol = Dim("slots", min=2)
    axes = [{len(shape(node)) + _SLOTS: symbol} if node in histories else None for node in inputs]
    try:
        exported = export(fx.GraphModule(program.graph, graph), tuple(examples), dynamic_shapes=tuple(axes))
        traced = canonicalize(exported.graph_module).graph
        size = shape(traced.find_nodes(op="placeholder")[0])[_SLOTS]
        if not isinstance(size, torch.SymInt):
            raise Refused("it fixes how many there are")
        (followed,) = size.node.expr.free_symbols
        layouts = check_separate(traced, followed)
    except (Refused, Inseparable) as refusal:
        raise Refused(f"{location(attention)} looks back on a mixture of positions: {refusal.message}") from refusal
    except Exception as error:
        if is_ours(error):
            raise
        raise Refused(f"{location(attention)} looks back on what depends on how many positions there are.") from error
    for result in traced.output_node().all_input_nodes:
        if layouts.get(result) != Layout() or not isinstance(shape(result)[_SLOTS], torch.SymInt):
            raise Refused(f"{location(attention)} looks back along another axis than that of the positions.")


def _moved(region: _Region) -> list[fx.Node]:
    """The region for the one slot of each step's own, then its history."""
    graph, slots = region.results[0].graph, region.histories[0].args[1]
    copies: dict[fx.Node, fx.Node | int] = {history: first_operand(history) for history in region.histories}
    copies |= {node: node for node in region.outside}
    for node in region.nodes:
        copy = _copy(graph, node, copies, slots, 1)
        copy.meta["val"] = infer(copy)
    return [emit(graph, ops.history, copies[result], slots, like=result) for result in region.results]


def _copy(
    graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node | int], slots: object, count: fx.Node | int
) -> fx.Node:
    """A copy with `count` wherever the number of slots stands."""
    copy = graph.node_copy(node, lambda source: copies[source])
    copy.args, copy.kwargs = map_aggregate(
        (copy.args, copy.kwargs), lambda value: count if type(value) is int and value == slots else value
    )
    copies[node] = copy
    return copy


PASS = Pass(
    "hoist-projections",
    "What is computed from the history of each position alone is the history of what it computes.",
    lambda program, _: hoist_projections(program),
    requires=(NOTHING_OUTSIDE,),
    ensures=(PROJECTIONS_HOISTED,),
)
