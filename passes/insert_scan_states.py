"""Carry recurrences: a recurrence over the whole text becomes one over a chunk, with its states as input and output."""

import dataclasses
import operator

import torch
from torch import fx

from autoconvert.analysis.invariants import POSITIONS_BOUND, SCANS_CARRIED
from autoconvert.ir.editing import emit, finish
from autoconvert.ir.nodes import named_results
from autoconvert.ir.program import Program
from autoconvert.ir.state import State
from autoconvert.passes.materialize_positions import INPUT_POS
from autoconvert.rewrite.passes import Pass
from autoconvert.scan.running_sum import RunningSum
from autoconvert.scan.scan import CarriedScan, Scan
from autoconvert.scan.shift_register import shift_register


def insert_scan_states(program: Program) -> Program:
    """Adds the states of every recurrence, float32 [1, …], as inputs and outputs of the graph."""
    owner, graph = program.graph, program.graph.graph
    results = named_results(graph)
    states: list[State] = []
    for call in graph.find_nodes(op="call_module"):
        recurrence = owner.get_submodule(str(call.target))
        assert isinstance(recurrence, Scan | RunningSum)
        # The runtime's names: c for the last inputs of a convolution, r for any other state.
        is_window = isinstance(recurrence, Scan) and shift_register(recurrence.step, recurrence.states)
        letter = "c" if is_window else "r"
        new = [
            State(f"kv_cache_{letter}_{len(states) + index}", (1, *shape), "recurrent", None)
            for index, shape in enumerate(recurrence.states)
        ]
        results |= _carry(owner, call, recurrence, new)
        states.extend(new)
    graph.output_node().args = (results,)
    return dataclasses.replace(program, graph=finish(owner), states=(*program.states, *states))


def _carry(
    owner: fx.GraphModule, call: fx.Node, recurrence: Scan | RunningSum, states: list[State]
) -> dict[str, fx.Node]:
    graph = owner.graph
    input_pos = graph.find_nodes(op="placeholder", target=INPUT_POS)[0]
    inputs = [_placeholder(graph, state, input_pos) for state in states]
    setattr(owner, str(call.target), CarriedScan(recurrence))
    outputs = call.meta["val"]
    call.args = (input_pos, *inputs, *call.args)
    call.meta["val"] = (*outputs, *(node.meta["val"] for node in inputs))
    with graph.inserting_after(call):
        return {
            state.name: emit(graph, operator.getitem, call, len(outputs) + index, like=call)
            for index, state in enumerate(states)
        }


def _placeholder(graph: fx.Graph, state: State, like: fx.Node) -> fx.Node:
    """A new input, after those that are there and before the weights."""
    last = [n for n in graph.find_nodes(op="placeholder") if not n.meta.get("is_weight")][-1]
    with graph.inserting_after(last):
        node = graph.placeholder(state.name)
    with like.meta["val"].fake_mode:
        node.meta["val"] = torch.empty(state.shape, dtype=state.dtype)
    return node


PASS = Pass(
    "insert-scan-states",
    "A recurrence over the whole text becomes one over a chunk, with its states as input and output.",
    lambda program, _: insert_scan_states(program),
    requires=(POSITIONS_BOUND,),
    ensures=(SCANS_CARRIED,),
    changes_ports=True,
)
