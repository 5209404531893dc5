"""Ranges: between which numbers the entries of each value lie, from what its inputs can be and what computes it."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.constants import held_value
from autoconvert.analysis.intervals import ANYTHING, TRUTH, Interval, at, whole
from autoconvert.analysis.op_traits import is_lookup, is_movement
from autoconvert.analysis.regions import ancestors
from autoconvert.ir.nodes import named_arguments, shape
from autoconvert.scan.running_sum import RunningSum
from autoconvert.scan.scan import Scan, StatefulScan

aten = torch.ops.aten

Ranges = Mapping[fx.Node, Interval]


def dtype_range(dtype: torch.dtype) -> Interval:
    """All that a type of numbers can hold."""
    if dtype == torch.bool:
        return TRUTH
    if dtype.is_floating_point or dtype.is_complex:
        return ANYTHING
    return whole(torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def ranges(graph: fx.GraphModule, inputs: Ranges, length: int) -> dict[fx.Node, Interval]:
    """The range of each tensor and size in `graph`, by one walk in order; every symbol is 1 to `length`.

    `inputs` are the ranges of placeholders that are known. What nothing is known of is ANYTHING; a value that has
    several results has the range of all of them. No wrapping is assumed: a range that is wider than its type says
    that the value may not fit.
    """
    found = _Ranges(dict(inputs), length)
    for node in graph.graph.nodes:
        if node.op != "output" and node not in found.of:
            found.of[node] = found.computed(node)
    return found.of


def called_scan(call: fx.Node) -> tuple[Scan | RunningSum, dict[fx.Node, fx.Node]]:
    """The scan that a node calls, and for each placeholder of its step the operand, states apart."""
    owner = call.graph.owning_module
    assert owner is not None
    module: Any = owner.get_submodule(str(call.target))
    is_stateful = isinstance(module, StatefulScan)
    scan: Scan | RunningSum = module.scan if is_stateful else module
    operands = call.args[1 + len(scan.states) :] if is_stateful else call.args
    inner = scan.step.graph.find_nodes(op="placeholder")[len(scan.states) :] if isinstance(scan, Scan) else []
    return scan, dict(zip(inner, operands, strict=True)) if isinstance(scan, Scan) else {call: operands[0]}  # type: ignore


def ranges_in_step(scan: Scan, operands: Ranges, length: int) -> Ranges:
    """As `ranges`, of one step of a scan, whose states are zero at first: one to which each step adds is a sum."""
    found = ranges(scan.step, operands, length)
    states = scan.step.graph.find_nodes(op="placeholder")[: len(scan.states)]
    results: Any = scan.step.graph.output_node().args[0]
    sums = {}
    for state, result in zip(states, results[-len(states) :], strict=True):
        if result.target is aten.add.Tensor and state in result.args and not result.kwargs:
            added = next(each for each in result.args if each is not state)
            if not isinstance(added, fx.Node):
                sums[state] = at(added).sums(length)
            elif not ancestors([added]) & set(states):
                sums[state] = found[added].sums(length)
    return ranges(scan.step, {**operands, **sums}, length) if sums else found


class _Ranges:
    def __init__(self, of: dict[fx.Node, Interval], length: int) -> None:
        self.of, self._length = of, length

    def computed(self, node: fx.Node) -> Interval:
        value = node.meta.get("val")
        if node.op == "get_attr":
            return _of_constant(held_value(node))
        if isinstance(value, torch.SymInt | int):
            return self._of_size(value)
        if node.op == "call_module":
            return self._by_scan(node)
        known = self._by_operation(node) if node.op == "call_function" else ANYTHING
        if isinstance(value, Tensor) and value.dtype == torch.bool:
            return TRUTH
        return known

    def _by_scan(self, call: fx.Node) -> Interval:
        scan, operands = called_scan(call)
        if isinstance(scan, RunningSum):
            return self(operands[call]).sums(self._length)
        inner = ranges_in_step(scan, {mine: self(its) for mine, its in operands.items()}, self._length)
        results: Any = scan.step.graph.output_node().args[0]
        return _union(inner[result] for result in results)

    def __call__(self, value: Any) -> Interval:
        """Of an argument: a node, or a number."""
        if isinstance(value, fx.Node):
            return self.of[value]
        return at(value) if isinstance(value, int | float) else ANYTHING

    def count(self, node: fx.Node, dim: Any = None) -> int:
        """The most entries that the axes `dim` of a node's value have together, all of them where it names none."""
        sizes = [int(self._of_size(size).high) for size in shape(node)]
        axes = range(len(sizes)) if dim is None or dim == [] else dim if isinstance(dim, list | tuple) else [dim]
        return math.prod(sizes[axis] for axis in axes) if sizes else 1

    def _by_operation(self, node: fx.Node) -> Interval:
        if node.target is operator.getitem:
            return _result(self, node)
        rule = _RULES.get(node.target)
        if rule is not None:
            return rule(self, node, named_arguments(node))
        if node.target in _JOINED:
            found: list[fx.Node] = []
            fx.map_arg(node.args[0], found.append)
            return _union(self(each) for each in found)
        if is_movement(node.target) or is_lookup(node.target):
            return self(node.args[0])
        return ANYTHING

    def _of_size(self, size: int | torch.SymInt) -> Interval:
        if isinstance(size, int):
            return at(size)
        expression = size.node.expr
        ends = [expression.subs(dict.fromkeys(expression.free_symbols, number)) for number in (1, self._length)]
        return whole(int(min(ends)), int(max(ends)))


_Rule = Callable[[_Ranges, fx.Node, Mapping[str, Any]], Interval]


def _union(parts: Any) -> Interval:
    first, *rest = parts
    for part in rest:
        first = first | part
    return first


def _of_constant(value: Tensor | None) -> Interval:
    if value is None or value.is_complex():
        return ANYTHING
    if not value.numel():
        return whole(0, 0)
    if value.is_floating_point() and not bool(value.isfinite().all()):
        return ANYTHING
    low, high = value.aminmax() if value.dtype != torch.bool else (value.min(), value.max())
    return Interval(low.item(), high.item(), _unit_of_constant(value) if value.is_floating_point() else 1.0)


def _unit_of_constant(value: Tensor) -> float:
    """The largest power of two from 1 down that all entries are multiples of; 0 where there is none that is useful."""
    return next((2.0**-e for e in range(0, 25, 4) if bool((value * 2**e == (value * 2**e).round()).all())), 0.0)


def _result(of: _Ranges, node: fx.Node) -> Interval:
    """One of several results: entries, or where they were."""
    source, index = node.args
    assert isinstance(source, fx.Node)
    if source.target in PAIRS_WITH_PLACES:
        operand = source.args[0]
        assert isinstance(operand, fx.Node)
        axis = named_arguments(source).get("dim")
        return of(operand) if index == 0 else whole(0, of.count(operand, axis) - 1)
    return of(source)


def _places(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return whole(0, of.count(given["self"], given["dim"]) - 1)


def _sum(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return of(given["self"]).sums(of.count(given["self"], given.get("dim")))


def _scaled_sum(sign: int) -> _Rule:
    def rule(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
        return of(given["self"]) + of(given["other"]) * of(given.get("alpha", 1)) * at(sign)

    return rule


def _quotient(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    """Rounded down or toward zero; a whole divisor is 1 at the least, whatever its sign."""
    a, b = of(given["self"]), of(given["other"])
    if not (a.whole and b.whole) or given.get("rounding_mode", "floor") is None:
        return ANYTHING
    if b.low <= 0 or math.isinf(a.size) or math.isinf(b.size):
        return whole(-a.size, a.size)
    ends = [(int(x), int(y)) for x in (a.low, a.high) for y in (b.low, b.high)]
    return whole(min(x // y for x, y in ends), max(-(-x // y) for x, y in ends))


def _ratio(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    a, b = of(given["self"]), of(given["other"])
    if b.low <= 0 or math.isinf(a.size) or math.isinf(b.size):
        return ANYTHING
    ends = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    is_by_power_of_two = b.low == b.high == b.unit
    return Interval(min(ends), max(ends), a.unit / b.unit if is_by_power_of_two else 0.0)


def _product(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    a, b = list(given.values())[:2]
    product = (of(a) * of(b)).sums(of.count(a, -1))
    added = given.get("bias")
    return product if added is None else product + of(added)


def _power(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    base, exponent = of(given["self"]), given["exponent"]
    if not isinstance(exponent, int) or not 0 <= exponent <= 64:
        return ANYTHING
    powers = at(1)
    for _ in range(exponent):
        powers = powers * base
    return powers


def _cast(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    x = of(given["self"])
    if node.meta["val"].is_floating_point():
        return x
    # The part behind the point goes.
    low, high = (bound if math.isinf(bound) else math.trunc(bound) for bound in (x.low, x.high))
    return whole(low, high)


def _rounded(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    x = of(given["self"])
    low, high = x.low, x.high
    return whole(low if math.isinf(low) else math.floor(low), high if math.isinf(high) else math.ceil(high))


def _clamp(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    x = of(given["self"])
    if given.get("min") is not None:
        x = x.at_least(of(given["min"]))
    if given.get("max") is not None:
        x = x.at_most(of(given["max"]))
    return x


def _larger(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return of(given["self"]).at_least(of(given["other"]))


def _smaller(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return of(given["self"]).at_most(of(given["other"]))


def _bits(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    """Of numbers that are not negative no bit is set above the highest of the larger one, nor of the one that masks."""
    a, b = of(given["self"]), of(given["other"])
    if min(a.low, b.low) < 0 or math.isinf(max(a.high, b.high)):
        mask = next((each for each in (a, b) if each.low >= 0), None)
        is_and = "and" in str(node.target)
        return whole(0, mask.high) if is_and and mask is not None else ANYTHING
    if "and" in str(node.target):
        return whole(0, min(a.high, b.high))
    return whole(0, (1 << int(max(a.high, b.high)).bit_length()) - 1)


def _shifted(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    a, by = of(given["self"]), of(given["other"])
    if not 0 <= by.low <= by.high <= 63:
        return ANYTHING
    if "left" in str(node.target) or "lshift" in str(node.target):
        return a * whole(1 << int(by.low), 1 << int(by.high))
    return whole(min(a.low, 0), max(a.high, 0))


def _chosen(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return of(given["self"]) | of(given["other"])


def _filled(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return of(given["self"]) | of(given["value"])


def _of_argument(name: str) -> _Rule:
    return lambda of, node, given: of(given[name])


def _always(interval: Interval) -> _Rule:
    return lambda of, node, given: interval


def _counted(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    start, end = of(given.get("start", 0)), of(given["end"])
    return whole(min(start.low, end.low), max(start.high, end.high)) if start.whole and end.whole else start | end


def _added(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    """Any number of entries may be added to one."""
    source = given.get("src", given.get("source"))
    return of(given["self"]) + of(source).sums(of.count(source)) if isinstance(source, fx.Node) else ANYTHING


def _written(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return _union(of(given[name]) for name in ("self", "src", "source", "values", "value") if name in given)


def _zeroed(of: _Ranges, node: fx.Node, given: Mapping[str, Any]) -> Interval:
    return of(given["self"]) | at(0)


_JOINED = {aten.cat.default, aten.stack.default}
PAIRS_WITH_PLACES = {
    *(aten.topk.default, aten.sort.default, aten.sort.stable, aten.max.dim, aten.min.dim, aten.median.dim),
    *(aten.cummax.default, aten.cummin.default, aten.kthvalue.default),
}
_EXTREMES = (aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)
_ZERO, _ONE = _always(at(0)), _always(at(1))
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), _scaled_sum(1)),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), _scaled_sum(-1)),
    **dict.fromkeys(
        (aten.rsub.Scalar, aten.rsub.Tensor),
        lambda of, node, given: of(given["other"]) - of(given["self"]) * of(given.get("alpha", 1)),
    ),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), lambda of, node, given: of(given["self"]) * of(given["other"])),
    **dict.fromkeys(
        (aten.div.Tensor_mode, aten.div.Scalar_mode, aten.floor_divide.default, aten.floor_divide.Scalar), _quotient
    ),
    **dict.fromkeys(
        (aten.remainder.Tensor, aten.remainder.Scalar),
        lambda of, node, given: of(given["self"]).remainder(of(given["other"])),
    ),
    **dict.fromkeys(
        (aten.fmod.Tensor, aten.fmod.Scalar),
        lambda of, node, given: of(given["self"]) | at(0),
    ),
    **dict.fromkeys(
        (aten.sum.default, aten.sum.dim_IntList, aten.cumsum.default),
        _sum,
    ),
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default, aten.linear.default), _product),
    **dict.fromkeys((aten.argmax.default, aten.argmin.default, aten.argsort.default, aten.argsort.stable), _places),
    **dict.fromkeys(_EXTREMES, _of_argument("self")),
    **dict.fromkeys((aten.mean.default, aten.mean.dim), lambda of, node, given: _any_of(of(given["self"]))),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), _ratio),
    aten.neg.default: lambda of, node, given: -of(given["self"]),
    aten.abs.default: lambda of, node, given: of(given["self"]).magnitude(),
    aten.sign.default: _always(whole(-1, 1)),
    aten.pow.Tensor_Scalar: _power,
    **dict.fromkeys((aten._to_copy.default, aten.to.dtype), _cast),
    **dict.fromkeys((aten.floor.default, aten.ceil.default, aten.round.default, aten.trunc.default), _rounded),
    **dict.fromkeys((aten.clamp.default, aten.clamp.Tensor), _clamp),
    **dict.fromkeys((aten.clamp_min.default, aten.clamp_max.default), _clamp),
    aten.relu.default: lambda of, node, given: _nonnegative(of(given["self"])),
    aten.maximum.default: _larger,
    aten.minimum.default: _smaller,
    **dict.fromkeys(
        (
            *(aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.bitwise_or.Tensor, aten.bitwise_or.Scalar),
            *(aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__and__.Tensor, aten.__or__.Tensor),
            *(aten.__and__.Scalar, aten.__or__.Scalar),
        ),
        _bits,
    ),
    aten.bitwise_not.default: lambda of, node, given: at(-1) - of(given["self"]),
    **dict.fromkeys(
        (
            *(aten.__lshift__.Scalar, aten.__lshift__.Tensor, aten.__rshift__.Scalar, aten.__rshift__.Tensor),
            *(aten.bitwise_left_shift.Tensor, aten.bitwise_left_shift.Tensor_Scalar),
            *(aten.bitwise_right_shift.Tensor, aten.bitwise_right_shift.Tensor_Scalar),
        ),
        _shifted,
    ),
    **dict.fromkeys(
        (aten.where.self, aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf),
        _chosen,
    ),
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), _filled),
    **dict.fromkeys((aten.full.default, aten.full_like.default, aten.new_full.default), _of_argument("fill_value")),
    **dict.fromkeys((aten.fill.Scalar, aten.fill.Tensor), _of_argument("value")),
    aten.scalar_tensor.default: _of_argument("s"),
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), _ZERO),
    # What is in an empty tensor is written before it is read.
    **dict.fromkeys((aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default), _ZERO),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), _ONE),
    **dict.fromkeys((aten.arange.default, aten.arange.start, aten.arange.start_step), _counted),
    **dict.fromkeys((aten.sigmoid.default, aten.softmax.int, aten._softmax.default), _always(Interval(0, 1))),
    **dict.fromkeys((aten.tanh.default, aten.sin.default, aten.cos.default), _always(Interval(-1, 1))),
    **dict.fromkeys((ops.slot_numbers, ops.numbers_of_slots), lambda of, node, given: whole(0, of.count(node) - 1)),
    aten.one_hot.default: _always(TRUTH),
    aten.eye.default: _always(TRUTH),
    **dict.fromkeys((aten.tril.default, aten.triu.default), _zeroed),
    aten.constant_pad_nd.default: _filled,
    **dict.fromkeys((aten.scatter_add.default, aten.index_add.default), _added),
    **dict.fromkeys(
        (
            *(aten.scatter.src, aten.scatter.value, aten.index_copy.default, aten.copy.default),
            *(aten.select_scatter.default, aten.slice_scatter.default),
        ),
        _written,
    ),
    **dict.fromkeys(
        (aten.bucketize.Tensor, aten.searchsorted.Tensor),
        lambda of, node, given: whole(0, of.count(given.get("boundaries", given.get("sorted_sequence")), -1)),
    ),
}


def _nonnegative(x: Interval) -> Interval:
    return x.at_least(at(0))


def _any_of(x: Interval) -> Interval:
    """All numbers between its bounds."""
    return Interval(x.low, x.high)
