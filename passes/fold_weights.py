"""Fold weights: what depends on parameters alone is computed when the file is written, not on the device.

`1 + weight`, a transposed matrix, a fused projection: each becomes one weight with the expression as its program.
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from autoconvert.analysis.binding_times import Time, binding_times, frontier
from autoconvert.analysis.invariants import WEIGHTS_FOLDED, WHOLE_TEXT
from autoconvert.analysis.regions import extract
from autoconvert.errors import Refused
from autoconvert.ir.editing import finish, infer, replace
from autoconvert.ir.inputs import without_unread_weights
from autoconvert.ir.nodes import type_key
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.ir.weight import Weight
from autoconvert.rewrite.pass_manager import Pass


def fold_weights(program: Program) -> Program:
    """Lifts every expression over parameters into a weight, and evaluates every expression over constants.

    Raises:
        Refused: an expression over parameters gives whole numbers, booleans or a number in Python.
    """
    graph = program.graph
    weights = dict(program.weights)
    for node in frontier(graph.graph, binding_times(program), Time.CONSTANT):
        if node.op == "call_function":
            _fold(graph, node)
    # Users first: an expression may be part of another, which must still see the parameters.
    for node in reversed(frontier(graph.graph, binding_times(program), Time.WEIGHT)):
        if node.op == "call_function":
            _refuse_other_than_floats(node)
            weight = _lift(graph, node, program.weights)
            weights[weight.name] = weight
    finish(graph)
    return without_unread_weights(dataclasses.replace(program, weights=weights))


def _refuse_other_than_floats(node: fx.Node) -> None:
    value = node.meta["val"]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = str(value.dtype) if isinstance(value, Tensor) else "a number in Python"
        raise Refused(f"{location(node)} makes {kind} of weights alone: only floats are kept as weights.", at=node.name)


def _fold(graph: fx.GraphModule, node: fx.Node) -> None:
    with torch.no_grad():
        (value,) = extract(graph, [node])()
    if not isinstance(value, Tensor):
        _write_number(node, value)
        return
    name = f"constant_{node.name}"
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(node):
        constant = graph.graph.get_attr(name)
    constant.meta = dict(node.meta)
    replace(node, constant)


def _write_number(node: fx.Node, number: float) -> None:
    """A number in Python stands where it is used from now on."""
    for user in list(node.users):
        before = type_key(user.meta.get("val"))
        user.args, user.kwargs = fx.map_arg(
            (user.args, user.kwargs), lambda operand: number if operand is node else operand
        )
        if isinstance(user.meta.get("val"), Tensor):
            user.meta["val"] = infer(user)
            if type_key(user.meta["val"]) != before:
                raise Refused(f"{location(user)} takes a size from a constant of the model.", at=user.name)
    node.graph.erase_node(node)


def _lift(graph: fx.GraphModule, node: fx.Node, known: Mapping[str, Weight]) -> Weight:
    region = extract(graph, [node])
    output = next(iter(reversed(region.graph.nodes)))
    output.args = (output.args[0][0],)
    region.recompile()
    names = [str(p.target) for p in region.graph.find_nodes(op="placeholder")]
    sources = tuple(source for name in names for source in known[name].sources)
    name = f"{names[0]}_{node.name}"
    first = graph.graph.find_nodes(op="placeholder")[-1]
    with graph.graph.inserting_after(first):
        placeholder = graph.graph.placeholder(name)
    placeholder.meta = dict(node.meta)
    replace(node, placeholder)
    return Weight(name, tuple(node.meta["val"].shape), sources, region)


PASS = Pass(
    "fold-weights",
    "What depends on parameters alone is computed when the file is written, not on the device.",
    lambda program, _: fold_weights(program),
    requires=(WHOLE_TEXT,),
    ensures=(WEIGHTS_FOLDED,),
)
