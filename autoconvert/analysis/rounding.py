"""Rounding: which numbers a device computes to the last bit as PyTorch does, and where the last bit decides.

What rounds may round in another way on a device. That is no matter where the result changes as little; a jump, such as
`floor` or a comparison, makes a whole step of it, if the numbers can lie where it jumps. Learned numbers lie there by
chance only. Numbers computed of tokens and positions do so by design.
"""

import operator
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.intervals import Interval
from autoconvert.analysis.op_traits import FILLS, JOINS, is_lookup, is_movement
from autoconvert.analysis.ranges import PAIRS_WITH_PLACES, Ranges, called_scan, ranges_in_step
from autoconvert.ir.nodes import named_arguments
from autoconvert.scan.scan import Scan

aten = torch.ops.aten

# Binary digits of what is computed with: a device has no float64.
_DIGITS = {torch.float64: 24, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


class Rounding(IntEnum):
    """How the numbers of a value come about: to the last bit, rounded on the way, or from what was learned."""

    EXACT = 0
    ROUNDED = 1
    LEARNED = 2


Roundings = Mapping[fx.Node, Rounding]

# Each entry of the result is one of the operands', perhaps with another sign, or a number that stands there.
_CHOICES = {
    *(aten.where, aten.masked_fill, aten.clamp, aten.clamp_min, aten.clamp_max, aten.maximum, aten.minimum),
    *(aten.amax, aten.amin, aten.max, aten.min, aten.relu, aten.abs, aten.neg, aten.cummax, aten.cummin),
    *(aten.sort, aten.topk, aten.scatter, aten.select_scatter, aten.slice_scatter, aten.index_copy, aten.copy),
    *(aten.constant_pad_nd, aten.tril, aten.triu),
}
_COMPARISONS = {aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge}
_QUOTIENTS = {aten.div.Tensor_mode, aten.div.Scalar_mode}
_JUMPS = {
    *(aten.floor, aten.ceil, aten.round, aten.trunc, aten.frac, aten.sign, aten.sgn, aten.heaviside),
    *(aten.remainder, aten.fmod, aten.floor_divide, aten.logical_not, aten.logical_and, aten.logical_or),
    *(aten.logical_xor, aten.argmax, aten.argmin, aten.argsort, aten.bucketize, aten.searchsorted, aten.nonzero),
}


def roundings(graph: fx.GraphModule, inputs: Roundings, found: Ranges, length: int) -> dict[fx.Node, Rounding]:
    """Of each tensor in `graph`, where `found` are the ranges; whole numbers and truths are exact.

    Sequences have up to `length` positions. `inputs` are those of placeholders; of one that is not there nothing is
    known, as of a weight.
    """
    known: dict[fx.Node, Rounding] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            known[node] = inputs.get(node, Rounding.LEARNED)
        elif node.op == "call_module":
            known[node] = _of_scan(node, known, found, length)
        elif node.op == "call_function":
            known[node] = _of_call(node, known, found)
        else:
            known[node] = Rounding.EXACT
        if not _is_float(node) and isinstance(node.meta.get("val"), Tensor):
            known[node] = Rounding.EXACT
    return known


def roundings_in_step(
    scan: Scan, operands: Mapping[fx.Node, fx.Node], known: Roundings, found: Ranges, length: int
) -> tuple[dict[fx.Node, Rounding], Ranges]:
    """As `roundings`, of one step of a scan, whose states are zero at first and then what steps make of them.

    `operands` are what its placeholders stand for outside, of which `known` and `found` tell; the ranges come too.
    """
    inner = ranges_in_step(scan, {mine: found[its] for mine, its in operands.items()}, length)
    states = scan.step.graph.find_nodes(op="placeholder")[: len(scan.states)]
    of_states = dict.fromkeys(states, Rounding.EXACT)
    while True:
        inputs = {mine: known[its] for mine, its in operands.items()} | of_states
        within = roundings(scan.step, inputs, inner, length)
        results: Any = scan.step.graph.output_node().args[0]
        made = dict(zip(states, results[-len(states) :], strict=True))
        after = {state: max(before, within[made[state]]) for state, before in of_states.items()}
        if after == of_states:
            return within, inner
        of_states = after


def rounded_jump(node: fx.Node, known: Roundings, found: Ranges) -> fx.Node | None:
    """The operand by which `node` jumps, if rounding may decide where it lies: no learned number, but a counted one."""
    operands = [n for n in _jumping(node) if _is_float(n)]
    how = _computed(known[n] for n in operands)
    if not operands or how is Rounding.LEARNED or (how is Rounding.EXACT and not _divides_roughly(node)):
        return None
    if isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket in _COMPARISONS:
        given = named_arguments(node)
        if _are_apart(*(found[v] if isinstance(v, fx.Node) else v for v in (given["self"], given["other"]))):
            return None
    return next((n for n in operands if known[n] is Rounding.ROUNDED), operands[0])


def _jumping(node: fx.Node) -> list[fx.Node]:
    """The operands of which a change in the last bit may change the result by more."""
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, fx.Node)
        return source.all_input_nodes[:1] if source.target in PAIRS_WITH_PLACES and index == 1 else []
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    packet = node.target.overloadpacket
    if packet in (aten._to_copy, aten.to):
        return [] if _is_float(node) else node.all_input_nodes
    return node.all_input_nodes if packet in _JUMPS | _COMPARISONS or node.target in _QUOTIENTS else []


def _divides_roughly(node: fx.Node) -> bool:
    """Whether the device rounds the quotient before it cuts it off, so that exact operands do not help."""
    toward_zero = named_arguments(node).get("rounding_mode") == "trunc" if node.target in _QUOTIENTS else False
    return toward_zero or getattr(node.target, "overloadpacket", None) is aten.fmod


def _are_apart(a: Any, b: Any) -> bool:
    """Whether no number of one is as large as one of the other, however it is rounded."""
    low_a, high_a = (a.low, a.high) if isinstance(a, Interval) else (a, a)
    low_b, high_b = (b.low, b.high) if isinstance(b, Interval) else (b, b)
    margin = 1e-4 * max(map(abs, (low_a, high_a, low_b, high_b)))
    return bool(high_a + margin < low_b or high_b + margin < low_a)


def _of_scan(call: fx.Node, known: Roundings, found: Ranges, length: int) -> Rounding:
    scan, operands = called_scan(call)
    if not isinstance(scan, Scan):
        return _of_sum(known[operands[call]], found[call], torch.float32)
    inner = roundings_in_step(scan, operands, known, found, length)[0]
    results: Any = scan.step.graph.output_node().args[0]
    return _joined(inner[result] for result in results)


def _of_call(node: fx.Node, known: Roundings, found: Ranges) -> Rounding:
    if node.target in FILLS:
        return Rounding.EXACT
    if is_lookup(node.target):
        return known[node.all_input_nodes[0]]
    operands = [n for n in node.all_input_nodes if _is_float(n) or not isinstance(n.meta.get("val"), Tensor)]
    packet = getattr(node.target, "overloadpacket", None)
    if is_movement(node.target) or node.target in JOINS or packet in _CHOICES:
        return _joined(known[n] for n in operands)
    return _of_sum(_computed(known[n] for n in operands), found[node], _type(node))


def _of_sum(operands: Rounding, found: Interval, dtype: torch.dtype) -> Rounding:
    """What is computed of exact numbers is exact where it needs no rounding."""
    if operands is Rounding.EXACT and not found.is_held_by(_DIGITS.get(dtype, 0)):
        return Rounding.ROUNDED
    return operands


def _computed(operands: Iterable[Rounding]) -> Rounding:
    """A learned number makes all that is computed with it as accidental as it is."""
    return max(operands, default=Rounding.EXACT)


def _joined(parts: Iterable[Rounding]) -> Rounding:
    """Some of the numbers are rounded."""
    kinds = set(parts)
    return Rounding.ROUNDED if Rounding.ROUNDED in kinds else _computed(kinds)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex()) for each in tensors)


def _type(node: fx.Node) -> torch.dtype:
    value: Any = node.meta.get("val")
    first = value[0] if isinstance(value, list | tuple) and value else value
    return first.dtype if isinstance(first, Tensor) else torch.float32
