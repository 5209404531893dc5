"""Write out: operations that patterns brought become what they stand for on the device.

From here on every pass sees operations that it knows, so that what is proven of the graph is proven of what is lowered.
"""

from collections.abc import Iterable

from autoconvert.ir.program import Program
from autoconvert.ops.semantic import Operation
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.decomposition import expand_nodes
from autoconvert.rewrite.rule import OnRewrite


def decompose(program: Program, operations: Iterable[Operation], on_rewrite: OnRewrite = lambda *_: None) -> Program:
    """Replaces every node of `operations` by its device body; `on_rewrite` sees what is normalised."""
    expanded = expand_nodes(program.graph.graph, {each.overload: each.device for each in operations})
    return program.with_graph(canonicalize(program.graph, program.weights, on_rewrite)) if expanded else program
