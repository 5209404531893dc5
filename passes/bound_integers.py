"""Bound integers: no whole number that the device computes is larger than it can hold.

A device has whole numbers of 32 bits where PyTorch has 64, and sums along the sequence in float32. What tokens decide
is carried only where its range is shown to fit.
"""

import math

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from autoconvert.analysis.input_ranges import input_ranges
from autoconvert.analysis.intervals import Interval, at, whole
from autoconvert.analysis.invariants import POSITIONS_MATERIALIZED, SCANS_STATEFUL
from autoconvert.analysis.ranges import Ranges, called_scan, dtype_range, ranges, ranges_in_step
from autoconvert.errors import Refused
from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.rewrite.pass_manager import Pass
from autoconvert.scan.scan import Scan

aten = torch.ops.aten

_INT32 = dtype_range(torch.int32)
_SUMS = (aten.sum.default, aten.sum.dim_IntList, aten.cumsum.default)
# Up to here float32 holds every whole number.
_EXACT = whole(-(2**24), 2**24)


def bound_integers(program: Program, context: int) -> Program:
    """Shows that each whole number fits where the device holds it, for tokens of the vocabulary and any position.

    Raises:
        Refused: a number may be too large, or nothing is known of it.
    """
    _bound(program.graph, ranges(program.graph, input_ranges(program, context), context), context)
    return program


def _bound(graph: fx.GraphModule, found: Ranges, context: int) -> None:
    for node in graph.graph.nodes:
        if node.op == "call_module":
            scan, operands = called_scan(node)
            if isinstance(scan, Scan):
                given = {mine: found[its] for mine, its in operands.items()}
                _bound(scan.step, ranges_in_step(scan, given, context), context)
            elif not operands[node].meta["val"].is_floating_point() or _counts(found[node]):
                _refuse_beyond(_EXACT, found[node], node, f"the device adds in float32, exactly up to {2**24:,} only")
        elif isinstance(node.meta.get("val"), Tensor) and node.op != "placeholder" and node.op != "output":
            _bound_node(node, found[node])


def _counts(found: Interval) -> bool:
    """Whether floating-point numbers are whole and of a range: counted and not learned."""
    return found.whole and not math.isinf(found.size)


def _bound_node(node: fx.Node, found: Interval) -> None:
    dtype = node.meta["val"].dtype
    if dtype == torch.float64 and found.whole:
        _refuse_beyond(_EXACT, found, node, f"the device has no float64, and float32 is exact up to {2**24:,} only")
    if node.target in _SUMS and dtype.is_floating_point and _counts(found):
        _refuse_beyond(_EXACT, found, node, f"float32 is exact up to {2**24:,} only")
    if dtype == torch.bool or dtype.is_floating_point or dtype.is_complex:
        number = next((n for n in _numbers(node) if not at(n).within(_INT32)), None)
        if number is not None:
            raise _refused(node, f"compares with {number:,}", "the device has whole numbers of 32 bits")
        return
    # A constant stands nowhere in the model's code: its first user does.
    place = next(iter(node.users), node) if node.op == "get_attr" else node
    most = _INT32 if dtype == torch.int64 else dtype_range(dtype)
    _refuse_beyond(most, found, place, f"the device holds {most} only")


def _numbers(node: fx.Node) -> list[int]:
    """The whole numbers that stand in the place of an operand beside operands of whole numbers."""
    if not isinstance(node.target, OpOverload):
        return []
    if any(n.meta["val"].is_floating_point() for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)):
        return []
    given = named_arguments(node)
    scalars = [given[a.name] for a in node.target._schema.arguments if "number" in str(a.type).lower()]
    return [scalar for scalar in scalars if isinstance(scalar, int)]


def _refuse_beyond(most: Interval, found: Interval, node: fx.Node, why: str) -> None:
    if found.within(most):
        return
    what = "may be any number" if math.isinf(found.low) and math.isinf(found.high) else f"may be {found}"
    raise _refused(node, what, why)


def _refused(node: fx.Node, what: str, why: str) -> Refused:
    return Refused(
        f"{location(node)} {what}, and {why}.",
        hint="Their range must be shown to fit: take a remainder before the product or the sum, or `clamp`.",
        at=node.name,
    )


PASS = Pass(
    "bound-integers",
    "Every whole number is shown to fit where the device holds it.",
    lambda program, options: bound_integers(program, options.context),
    requires=(POSITIONS_MATERIALIZED, SCANS_STATEFUL),
)
