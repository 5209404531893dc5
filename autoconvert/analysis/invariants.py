"""Invariants: what passes leave a program with, and what others build on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autoconvert import ops
from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.analysis.op_traits import ASSERTIONS
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import arguments, first_operand, named_arguments
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import named
from autoconvert.ir.types import expressions_in, type_of
from autoconvert.ops.semantic import OUTSIDE
from autoconvert.scan.scan import StatefulScan

aten = torch.ops.aten


@dataclass(frozen=True)
class Invariant:
    """A named fact about a program: `holds` gives None, or what is wrong and at which node."""

    name: str
    holds: Callable[[Program], str | None]


def _without(*targets: Any) -> Callable[[Program], str | None]:
    """Holds where no node calls any of `targets`."""

    def holds(program: Program) -> str | None:
        graph = program.graph.graph
        found = (node for target in targets for node in graph.find_nodes(op="call_function", target=target))
        return next((f"{named(node)} is there" for node in found), None)

    return holds


def _attention_is_cached(program: Program) -> str | None:
    for node in program.graph.graph.find_nodes(op="call_function", target=ops.attention):
        if axes(named_arguments(node)["key"], program.stream):
            return f"{named(node)} is there"
    return None


def _without_outside(program: Program) -> str | None:
    for node in program.graph.graph.nodes:
        if getattr(node.target, "namespace", None) == OUTSIDE:
            return f"{named(node)} is there"
    return None


def _projections_are_hoisted(program: Program) -> str | None:
    graph = program.graph.graph
    after = set(graph.find_nodes(op="call_function", target=ops.history))
    if not after:
        return None
    for node in graph.nodes:
        if not after.isdisjoint(node.all_input_nodes):
            after.add(node)
    for attention in graph.find_nodes(op="call_function", target=ops.attention):
        given = named_arguments(attention)
        computed = [given[name] for name in ("key", "value") if given[name].target is not ops.history]
        if computed and after.issuperset(computed):
            return f"{named(attention)} looks back at {computed[0].name}, which is computed from a history"
    return None


def _is_whole_text(program: Program) -> str | None:
    if program.states:
        return f"the program keeps {program.states[0].name}"
    return _without(ops.history)(program)


def _is_folded(program: Program) -> str | None:
    for node, time in binding_times(program).items():
        if node.op == "call_function" and time <= Time.WEIGHT:
            return f"{named(node)} computes with nothing else"
    return None


def _positions_are_materialized(program: Program) -> str | None:
    positions = program.find_input(Role.POSITIONS)
    return None if positions is None else f"{positions.target} is an input"


def _cumsums_are_scans(program: Program) -> str | None:
    for node in program.graph.graph.find_nodes(op="call_function", target=aten.cumsum.default):
        if axes(first_operand(node), program.stream) == [arguments(node)[1]] and not node.kwargs:
            return f"{named(node)} runs along the sequence"
    return None


def token_sized(program: Program) -> fx.Node | None:
    """The first tensor, or several, with a size that tokens decide; a number alone may be known by then."""
    inputs = [type_of(node.meta["val"]) for node in program.graph.graph.find_nodes(op="placeholder")]
    known = {symbol for size in expressions_in(tuple(inputs)) for symbol in size.free_symbols}
    for node in program.graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            continue
        if value is not None and any(not size.free_symbols <= known for size in expressions_in(type_of(value))):
            return node
    return None


def _sizes_are_known(program: Program) -> str | None:
    node = token_sized(program)
    return None if node is None else f"{named(node)} has one"


def _scans_are_stateful(program: Program) -> str | None:
    for node in program.graph.graph.find_nodes(op="call_module"):
        if not isinstance(program.graph.get_submodule(str(node.target)), StatefulScan):
            return f"{named(node)} begins anew in every chunk"
    return None


NO_ASSERTIONS = Invariant("no assertions about types and sizes", _without(*ASSERTIONS))
NO_LOOPS = Invariant("no loops over what tokens decide", _without(ops.visit))
NO_TOKEN_SIZES = Invariant("no sizes that tokens decide", _sizes_are_known)
NO_SCORES = Invariant("scores of attention stand nowhere alone", _without(ops.attention_scores))
NOTHING_OUTSIDE = Invariant("no operations that patterns brought", _without_outside)
PROJECTIONS_HOISTED = Invariant(
    "attention looks back at histories and not at what is computed from them", _projections_are_hoisted
)
WHOLE_TEXT = Invariant("a whole text, with neither states nor histories", _is_whole_text)
WEIGHTS_FOLDED = Invariant("nothing is computed from weights and constants alone", _is_folded)
POSITIONS_MATERIALIZED = Invariant("positions are no input", _positions_are_materialized)
CUMSUMS_ARE_SCANS = Invariant("no cumulative sum along the sequence", _cumsums_are_scans)
ATTENTION_CACHED = Invariant("no attention to what grows but over caches", _attention_is_cached)
SCANS_STATEFUL = Invariant("every scan takes its states and gives them", _scans_are_stateful)
