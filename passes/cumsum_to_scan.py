"""Cumsum to scan: a cumulative sum along the sequence becomes a scan, for positions that are counted from tokens."""

import dataclasses
import math
import operator

import torch
from torch import fx

from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.invariants import CUMSUMS_ARE_SCANS, POSITIONS_MATERIALIZED
from autoconvert.ir.editing import emit, finish, replace
from autoconvert.ir.nodes import arguments, first_operand, shape
from autoconvert.ir.program import Program
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.running_sum import RunningSum

aten = torch.ops.aten


def cumsum_to_scan(program: Program) -> Program:
    """Replaces `cumsum` over the sequence; any other stays as it is."""
    owner = program.graph
    for index, node in enumerate(owner.graph.find_nodes(op="call_function", target=aten.cumsum.default)):
        if axes(first_operand(node), program.stream) == [arguments(node)[1]] and not node.kwargs:
            _scan(owner, node, f"running_sum_{index}")
    return dataclasses.replace(program, graph=finish(owner))


def _scan(owner: fx.GraphModule, node: fx.Node, name: str) -> None:
    """The axis to the front, everything else in one row, and back."""
    graph, x, axis = owner.graph, first_operand(node), arguments(node)[1]
    others = [size for index, size in enumerate(shape(x)) if index - len(shape(x)) != axis]
    width = math.prod(int(size) for size in others)
    owner.add_submodule(name, RunningSum(width))
    first = [axis, *(other for other in range(-len(shape(x)), 0) if other != axis)]
    with graph.inserting_before(node):
        if x.meta["val"].dtype == torch.bool:
            # A sum of truths is a number.
            x = emit(graph, aten._to_copy.default, x, dtype=node.meta["val"].dtype, like=node)
        moved = emit(graph, aten.permute.default, x, first, like=node)
        rows = emit(graph, aten.reshape.default, moved, [-1, width], like=node)
        call = graph.call_module(name, (rows,))
        call.meta = {**node.meta, "val": (rows.meta["val"],)}
        sums = emit(graph, operator.getitem, call, 0, like=node)
        whole = emit(graph, aten.reshape.default, sums, [-1, *others], like=node)
        back = emit(graph, aten.permute.default, whole, [first.index(a) for a in range(-len(first), 0)], like=node)
        if node.meta["val"].dtype != x.meta["val"].dtype:
            back = emit(graph, aten._to_copy.default, back, dtype=node.meta["val"].dtype, like=node)
    replace(node, back)


PASS = Pass(
    "cumsum-to-scan",
    "A cumulative sum along the sequence becomes a scan, for positions that are counted from tokens.",
    lambda program, _: cumsum_to_scan(program),
    requires=(POSITIONS_MATERIALIZED,),
    ensures=(CUMSUMS_ARE_SCANS,),
)
