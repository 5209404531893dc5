"""Insert KV cache: attention over the sequence becomes attention over a cache, so that runs can be split.

The sequence-axis analysis proves first that nothing else mixes positions.
"""

import dataclasses
import operator

import torch
from torch import fx

from autoconvert import ops
from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.invariants import (
    ATTENTION_CACHED,
    CUMSUMS_ARE_SCANS,
    NO_SCORES,
    NOTHING_OUTSIDE,
    POSITIONS_MATERIALIZED,
)
from autoconvert.analysis.sequence_axis import check_sequence_axis
from autoconvert.errors import Refused
from autoconvert.ir.editing import emit, finish, replace
from autoconvert.ir.inputs import add_input
from autoconvert.ir.interface import Role, port_of
from autoconvert.ir.nodes import first_operand, named_arguments, named_results, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import module_path
from autoconvert.ir.state import State
from autoconvert.ir.target import Target
from autoconvert.rewrite.pass_manager import Pass

aten = torch.ops.aten


def insert_kv_cache(program: Program, context: int, target: Target) -> Program:
    """Adds a mask float32 [1, 1, s, context] and two caches per attention as inputs, and the caches as outputs.

    Layouts are the target's. What is not read in chunks stays as it is.

    Raises:
        Refused: an operation mixes positions and no block covers it.
    """
    graph, symbol = program.graph.graph, program.stream
    if symbol is None:
        return program
    check_sequence_axis(graph, symbol)
    found = graph.find_nodes(op="call_function", target=ops.attention)
    # Attention to what does not grow with the text needs no cache.
    attentions = [node for node in found if axes(named_arguments(node)["key"], symbol)]
    kept = graph.find_nodes(op="call_function", target=ops.slots)
    if not attentions and not kept and not graph.find_nodes(op="call_module"):
        raise Refused(
            "No attention was fused and no scan was found in this model, so there is no state to keep.",
            hint="A decoder without any block that looks back is not covered.",
        )
    input_pos = program.input(Role.INPUT_POS)
    mask = add_input(program, Role.MASK.value, (1, 1, shape(input_pos)[0], context), torch.float32)
    for node in graph.find_nodes(op="call_function", target=ops.slot_numbers):
        with graph.inserting_before(node):
            replace(node, emit(graph, ops.numbers_of_slots, mask, like=node))
    results = named_results(graph)
    states: list[State] = []
    for index, attention in enumerate(attentions):
        pair = _caches(attention, index, context, target)
        results |= _over_cache(program, attention, pair, input_pos, mask)
        states.extend(pair)
    for number, node in enumerate(kept):
        state = _slots(node, len(attentions) + number // 2, number % 2, context, target)
        results[state.name] = _over_state(program, node, state, input_pos)
        states.append(state)
    graph.output_node().args = (results,)
    port = port_of(mask, str(mask.target), Role.MASK, program.symbols)
    return dataclasses.replace(
        program, graph=finish(program.graph), inputs=(*program.inputs, port), states=(*program.states, *states)
    )


def _caches(attention: fx.Node, index: int, capacity: int, target: Target) -> tuple[State, State]:
    given = named_arguments(attention)
    (_, groups, _, width), value_width = shape(given["key"]), shape(given["value"])[-1]
    return (
        _kept_by(attention, target.key_cache(index, int(groups), capacity, int(width))),
        _kept_by(attention, target.value_cache(index, int(groups), capacity, int(value_width))),
    )


def _slots(node: fx.Node, index: int, place: int, capacity: int, target: Target) -> State:
    """What is kept outside attention takes the places of keys and values in turn."""
    _, groups, _, width = shape(node)
    make = (target.key_cache, target.value_cache)[place]
    return _kept_by(node, make(index, int(groups), capacity, int(width)))


def _kept_by(node: fx.Node, state: State) -> State:
    return dataclasses.replace(state, module=module_path(node) or "")


def _over_state(program: Program, node: fx.Node, state: State, input_pos: fx.Node) -> fx.Node:
    graph, axis = node.graph, state.sequence_axis
    cache = add_input(program, state.name, state.shape, state.dtype)
    with graph.inserting_before(node):
        written = emit(graph, ops.write_slots, first_operand(node), cache, input_pos, axis, like=node)
        rows = emit(graph, aten.transpose.int, written, -2, -1, like=node) if axis == 3 else written
    replace(node, rows)
    return written


def _over_cache(
    program: Program, attention: fx.Node, states: tuple[State, State], input_pos: fx.Node, mask: fx.Node
) -> dict[str, fx.Node]:
    graph = attention.graph
    caches = [add_input(program, state.name, state.shape, state.dtype) for state in states]
    given = named_arguments(attention)
    operands = [given.pop(name) for name in ("query", "key", "value")]
    attributes = [value for name, value in given.items() if name not in ("mask", "causal")]
    layout = [state.sequence_axis for state in states]
    with graph.inserting_before(attention):
        call = emit(
            graph, ops.cached_attention, *operands, *caches, input_pos, mask, *layout, *attributes, like=attention
        )
        parts = [emit(graph, operator.getitem, call, index, like=attention) for index in range(3)]
    replace(attention, parts[0])
    return {state.name: part for state, part in zip(states, parts[1:], strict=True)}


PASS = Pass(
    "insert-kv-cache",
    "Attention over the sequence becomes attention over a cache, so that runs can be split.",
    lambda program, options: insert_kv_cache(program, options.context, options.target),
    requires=(NO_SCORES, NOTHING_OUTSIDE, POSITIONS_MATERIALIZED, CUMSUMS_ARE_SCANS),
    ensures=(ATTENTION_CACHED,),
    changes_ports=True,
)
