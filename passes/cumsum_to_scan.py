"""Cumsum to scan: a cumulative sum along the sequence becomes a scan, for positions that are counted from tokens."""

import dataclasses

import torch
from torch import fx

from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.invariants import CUMSUMS_ARE_SCANS, POSITIONS_MATERIALIZED
from autoconvert.ir.editing import emit, finish, replace
from autoconvert.ir.nodes import arguments, first_operand
from autoconvert.ir.program import Program
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.over_rows import call_scan, from_rows, rows_of, width_of
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
    graph, x, axis = owner.graph, first_operand(node), arguments(node)[1]
    with graph.inserting_before(node):
        if x.meta["val"].dtype == torch.bool:
            # A sum of truths is a number.
            x = emit(graph, aten._to_copy.default, x, dtype=node.meta["val"].dtype, like=node)
        scan = RunningSum(width_of(x, axis))
        (sums,) = call_scan(owner, name, scan, rows_of(x, axis, like=node), 1)
        whole = from_rows(sums, x, axis, like=node)
        if node.meta["val"].dtype != x.meta["val"].dtype:
            whole = emit(graph, aten._to_copy.default, whole, dtype=node.meta["val"].dtype, like=node)
    replace(node, whole)


PASS = Pass(
    "cumsum-to-scan",
    "A cumulative sum along the sequence becomes a scan, for positions that are counted from tokens.",
    lambda program, _: cumsum_to_scan(program),
    requires=(POSITIONS_MATERIALIZED,),
    ensures=(CUMSUMS_ARE_SCANS,),
)
