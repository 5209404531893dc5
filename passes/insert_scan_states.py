"""Insert scan states: a scan over the whole text becomes one over a chunk, with its states as input and output."""

import dataclasses
import operator

from torch import fx
from torch.fx.passes.tools_common import stable_topological_sort

from autoconvert.analysis.invariants import POSITIONS_MATERIALIZED, SCANS_STATEFUL
from autoconvert.ir.editing import emit, finish
from autoconvert.ir.inputs import add_input
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import named_results
from autoconvert.ir.program import Program
from autoconvert.ir.state import State
from autoconvert.ir.target import Target
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.running_sum import RunningSum
from autoconvert.scan.scan import Scan, StatefulScan
from autoconvert.scan.shift_register import shift_register


def insert_scan_states(program: Program, target: Target) -> Program:
    """Adds the states of every scan, float32 [1, …], as inputs and outputs of the graph."""
    graph = program.graph.graph
    results = named_results(graph)
    states: list[State] = []
    for call in graph.find_nodes(op="call_module"):
        scan = program.graph.get_submodule(str(call.target))
        assert isinstance(scan, Scan | RunningSum)
        is_window = isinstance(scan, Scan) and shift_register(scan.step, scan.states) is not None
        new = [
            target.scan_state(len(states) + index, shape, is_window=is_window)
            for index, shape in enumerate(scan.states)
        ]
        results |= _over_chunk(program, call, scan, new)
        states.extend(new)
    graph.output_node().args = (results,)
    # What runs along the tokens themselves may stand before the inputs that it gets here.
    stable_topological_sort(program.graph)
    return dataclasses.replace(program, graph=finish(program.graph), states=(*program.states, *states))


def _over_chunk(program: Program, call: fx.Node, scan: Scan | RunningSum, states: list[State]) -> dict[str, fx.Node]:
    graph, input_pos = call.graph, program.input(Role.INPUT_POS)
    inputs = [add_input(program, state.name, state.shape, state.dtype) for state in states]
    setattr(program.graph, str(call.target), StatefulScan(scan))
    outputs = call.meta["val"]
    call.args = (input_pos, *inputs, *call.args)
    call.meta["val"] = (*outputs, *(node.meta["val"] for node in inputs))
    with graph.inserting_after(call):
        return {
            state.name: emit(graph, operator.getitem, call, len(outputs) + index, like=call)
            for index, state in enumerate(states)
        }


PASS = Pass(
    "insert-scan-states",
    "A scan over the whole text becomes one over a chunk, with its states as input and output.",
    lambda program, options: insert_scan_states(program, options.target),
    requires=(POSITIONS_MATERIALIZED,),
    ensures=(SCANS_STATEFUL,),
    changes_ports=True,
)
