"""Write out: operations that patterns brought become what they stand for on the device.

From here on every pass sees operations that it knows, so that what is proven of the graph is proven of what is lowered.
"""

from collections.abc import Iterable

from autoconvert.expansion import expand_nodes
from autoconvert.ops.semantic import Operation
from autoconvert.passes.normalise import normalise
from autoconvert.program import Program


def write_out(program: Program, operations: Iterable[Operation]) -> Program:
    """Replaces every node of `operations` by its device body."""
    expanded = expand_nodes(program.graph.graph, {each.overload: each.device for each in operations})
    return program.with_graph(normalise(program.graph)) if expanded else program
