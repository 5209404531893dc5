"""Fill by positions: what is filled in the shape of activations is known with the positions, where its users are."""

import torch
from torch import fx

from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.analysis.invariants import WHOLE_TEXT
from autoconvert.analysis.op_traits import FILLS
from autoconvert.ir.editing import emit, finish
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import first_operand, is_symbolic, shape
from autoconvert.ir.program import Program
from autoconvert.rewrite.pass_manager import Pass

aten = torch.ops.aten


def fill_by_positions(program: Program) -> Program:
    """Gives fills the shape of positions instead of that of activations, where all that reads them is known as well."""
    if program.streamed is None:
        return program
    graph, positions = program.graph.graph, program.input(Role.POSITIONS)
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
    return program.with_graph(finish(program.graph))


def _in_the_shape_of(source: fx.Node, positions: fx.Node) -> fx.Node | None:
    """A value of positions alone with the shape and the type of `source`, if that has the sequence once."""
    sizes = [-1 if is_symbolic(size) else size for size in shape(source)]
    if [str(size) for size in shape(source) if is_symbolic(size)] != [str(shape(positions)[-1])]:
        return None
    rows = emit(positions.graph, aten.reshape.default, positions, [min(size, 1) for size in sizes], like=source)
    rows = emit(positions.graph, aten.expand.default, rows, sizes, like=source)
    return emit(positions.graph, aten._to_copy.default, rows, dtype=source.meta["val"].dtype, like=source)


PASS = Pass(
    "fill-by-positions",
    "What is filled in the shape of activations is known with the positions, where its users are.",
    lambda program, _: fill_by_positions(program),
    requires=(WHOLE_TEXT,),
)
