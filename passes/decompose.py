"""Decompose: operations that patterns brought become what they stand for on the device.

From here on every pass sees operations that it knows, so that what is proven of the graph is proven of what is lowered.
"""

from collections.abc import Iterable

from autoconvert.analysis.invariants import NOTHING_OUTSIDE
from autoconvert.ir.editing import finish
from autoconvert.ir.program import Program
from autoconvert.ops.semantic import Operation
from autoconvert.rewrite.decomposition import decompose_nodes
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.rewrite.pattern import operations_of


def decompose(program: Program, operations: Iterable[Operation]) -> Program:
    """Replaces every node of `operations` by its device body."""
    count = decompose_nodes(program.graph.graph, {each.overload: each.device for each in operations})
    return program.with_graph(finish(program.graph)) if count else program


PASS = Pass(
    "decompose",
    "Operations that patterns brought become what they stand for on the device.",
    lambda program, options: decompose(program, operations_of(options.patterns)),
    ensures=(NOTHING_OUTSIDE,),
)
