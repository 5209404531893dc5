"""Matching: where in a graph does a pattern stand, and if it nearly does, what is different."""

import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.constants import constant_value
from autoconvert.ir.fusion import NearMiss
from autoconvert.ir.nodes import arguments, named_arguments, shape
from autoconvert.ir.provenance import location, operation_name
from autoconvert.ops.semantic import NAMESPACE, OUTSIDE
from autoconvert.rewrite.pattern import Pattern

aten = torch.ops.aten

_COMMUTATIVE = {
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.__and__.Tensor,
    aten.bitwise_and.Tensor,
    aten.logical_and.default,
    aten.eq.Tensor,
    aten.maximum.default,
    aten.minimum.default,
}
# How a number may differ where one side of a division has been made a product with its reciprocal.
_ROUNDED = 2 * sys.float_info.epsilon


@dataclass(frozen=True)
class Match:
    """A pattern found: what its parameters are in the model, which are `constants`, and the value that it computes."""

    pattern: Pattern
    output: fx.Node
    bound: dict[str, fx.Node]
    scalars: dict[str, float]
    constants: dict[str, Tensor]

    @property
    def region(self) -> list[fx.Node]:
        """The nodes between what the pattern's parameters bound and its output, in order."""
        inputs = set(self.bound.values())
        found: set[fx.Node] = set()
        pending = [self.output]
        while pending:
            node = pending.pop()
            if node in found or node in inputs:
                continue
            found.add(node)
            # A size is a number here, wherever the model reads it from.
            if not isinstance(node.meta.get("val"), torch.SymInt):
                pending.extend(node.all_input_nodes)
        return [node for node in self.output.graph.nodes if node in found]


# Sees the graph, the match, and the replacement, whose placeholders are the pattern's parameters.
OnMatch = Callable[[fx.GraphModule, Match, fx.GraphModule], None]


@dataclass
class _Binding:
    """What a partial match has decided. Sizes are text, since symbolic sizes have no other identity."""

    nodes: dict[fx.Node, fx.Node] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)

    def copy(self) -> "_Binding":
        return _Binding(dict(self.nodes), dict(self.scalars), dict(self.sizes))


@dataclass(frozen=True)
class _Miss:
    """How far an attempt came: what matched, and what came where which operation was expected."""

    matched: int = 0
    found: Any = None
    reason: str = ""
    covered: tuple[fx.Node, ...] = ()


class Matcher:
    """Matches one canonicalized pattern graph; keeps the nearest miss of each attempt.

    `known` says which values of the model are numbers that its guard may look at.
    """

    def __init__(
        self, pattern: Pattern, graph: fx.Graph, known: Callable[[fx.Node], Tensor | None] = constant_value
    ) -> None:
        self.pattern = pattern
        self._known = known
        self._output: fx.Node = next(iter(reversed(graph.nodes))).args[0]
        self._operations = sum(node.op == "call_function" for node in graph.nodes)
        self._deepest = _Miss()

    @property
    def anchor(self) -> Any:
        """The operation that a value must come from to be worth an attempt."""
        return self._output.target

    def match(self, node: fx.Node) -> Match | NearMiss:
        """Tries the pattern with its output at `node`."""
        self._deepest = _Miss()
        for binding in self._unify(self._output, node, _Binding()):
            match = self._accepted(node, binding)
            if isinstance(match, Match):
                return match
            self._deepest = _Miss(self._operations, None, match, _covered(binding))
        return self._near_miss(node)

    def _near_miss(self, node: fx.Node) -> NearMiss:
        miss = self._deepest
        place = (
            location(miss.found) if isinstance(miss.found, fx.Node) else "" if miss.found is None else str(miss.found)
        )
        return NearMiss(
            pattern=self.pattern.name,
            node=node.name,
            # An operation that differs in a number has been counted.
            matched=miss.matched if miss.found is None else min(miss.matched, self._operations - 1),
            of=self._operations,
            reason=miss.reason,
            place=place,
            differs=miss.found.name if isinstance(miss.found, fx.Node) else "",
            covered=tuple(n.name for n in miss.covered),
        )

    def _accepted(self, node: fx.Node, binding: _Binding) -> Match | str:
        bound = {str(p.target): m for p, m in binding.nodes.items() if p.op == "placeholder"}
        constants = {name: value for name, m in bound.items() if (value := self._known(m)) is not None}
        values = {name: m.meta["val"] for name, m in bound.items()} | constants
        declined = self.pattern.ask({**values, **binding.scalars})
        return declined if declined else Match(self.pattern, node, bound, binding.scalars, constants)

    def _unify(self, p: fx.Node, m: Any, binding: _Binding) -> Iterator[_Binding]:
        if p in binding.nodes:
            if binding.nodes[p] is m:
                yield binding
            else:
                self._miss(binding, p, m, "is another value than where the pattern uses it first")
            return
        if not isinstance(m, fx.Node):
            self._miss(binding, p, m, "is a number, the pattern expects a tensor")
            return
        if p.op == "placeholder":
            if isinstance(m.meta.get("val"), Tensor):
                for sized in self._same_sizes(p, m, binding):
                    sized.nodes[p] = m
                    yield sized
            return
        selected = _selected(p, m)
        if (p.op != m.op or p.target != m.target) and not selected:
            self._miss(binding, p, m, f"the pattern expects {operation_name(p)}")
            return
        for sized in self._same_sizes(p, m, binding):
            sized.nodes[p] = m
            for operands in selected or _operand_orders(p, m):
                yield from self._unify_all(operands, p, m, sized)

    def _same_sizes(self, p: fx.Node, m: fx.Node, binding: _Binding) -> Iterator[_Binding]:
        """Values have the pattern's sizes, counted from the end; a block may have more axes in front."""
        pairs = [(e, s) for e, s in zip(reversed(shape(p)), reversed(shape(m)), strict=False) if e not in (0, 1)]
        yield from self._sizes(tuple(e for e, _ in pairs), tuple(s for _, s in pairs), p, m, binding)

    def _unify_all(
        self, operands: list[tuple[Any, Any, str]], p: fx.Node, m: fx.Node, binding: _Binding
    ) -> Iterator[_Binding]:
        if not operands:
            yield binding
            return
        (pattern_value, value, kind), *rest = operands
        for bound in self._unify_argument(pattern_value, value, kind, p, m, binding):
            yield from self._unify_all(rest, p, m, bound)

    def _unify_argument(
        self, expected: Any, value: Any, kind: str, p: fx.Node, m: fx.Node, binding: _Binding
    ) -> Iterator[_Binding]:
        if isinstance(expected, fx.Node) and isinstance(expected.meta.get("val"), Tensor | tuple | list):
            yield from self._unify(expected, value, binding)
        elif kind == "shape":
            yield from self._sizes(shape(p), shape(m), p, m, binding)
        elif isinstance(expected, list | tuple) and isinstance(value, list | tuple) and len(expected) == len(value):
            yield from self._unify_all([(e, v, kind) for e, v in zip(expected, value, strict=True)], p, m, binding)
        elif kind == "size" and isinstance(expected, int) and not isinstance(value, list | tuple):
            yield from self._sizes((expected,), (_size(value, m),), p, m, binding)
        elif isinstance(expected, float) and expected in self.pattern.scalars:
            yield from self._scalar(self.pattern.scalars[expected], value, p, m, binding)
        elif isinstance(expected, float) and expected in self.pattern.reciprocals and _is_number(value) and value:
            yield from self._scalar(self.pattern.reciprocals[expected], 1.0 / value, p, m, binding)
        elif not isinstance(value, fx.Node) and expected == value:
            yield binding
        else:
            self._miss(binding, p, m, f"has the argument {value}, the pattern expects {expected}")

    def _scalar(self, name: str, value: Any, p: fx.Node, m: fx.Node, binding: _Binding) -> Iterator[_Binding]:
        if not _is_number(value):
            self._miss(binding, p, m, f"{name} is not a number")
        elif not math.isclose(binding.scalars.get(name, value), value, rel_tol=_ROUNDED):
            self._miss(binding, p, m, f"{name} is {value} here and {binding.scalars[name]} elsewhere")
        else:
            binding = binding.copy()
            binding.scalars[name] = float(value)
            yield binding

    def _sizes(
        self, expected: tuple[Any, ...], sizes: tuple[Any, ...], p: fx.Node, m: fx.Node, binding: _Binding
    ) -> Iterator[_Binding]:
        if len(expected) != len(sizes):
            self._miss(binding, p, m, f"has rank {len(sizes)}, the pattern expects {len(expected)}")
            return
        binding = binding.copy()
        for pattern_size, size in zip(expected, sizes, strict=True):
            literal = pattern_size in (0, 1, -1)
            known = str(pattern_size) if literal else binding.sizes.setdefault(str(pattern_size), str(size))
            if known != str(size):
                self._miss(binding, p, m, f"has size {size} where the pattern expects {known}")
                return
        yield binding

    def _miss(self, binding: _Binding, p: fx.Node, m: Any, reason: str) -> None:
        covered = _covered(binding)
        if len(covered) > self._deepest.matched:
            self._deepest = _Miss(len(covered), m, reason, covered)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _covered(binding: _Binding) -> tuple[fx.Node, ...]:
    """The nodes of the model that operations of the pattern are bound to."""
    return tuple(m for p, m in binding.nodes.items() if p.op == "call_function")


def _selected(p: fx.Node, m: fx.Node) -> list[list[tuple[Any, Any, str]]]:
    """x[..., index] is a selection where the model's index is a constant, which a pattern's parameter may be."""
    if p.target is not aten.index.Tensor or m.target is not aten.index_select.default:
        return []
    source, indices = arguments(p)
    given = [(axis - len(shape(source)), index) for axis, index in enumerate(indices) if index is not None]
    chosen, axis, index = arguments(m)
    is_same = len(given) == 1 and given[0][0] == axis and len(shape(given[0][1])) == 1
    return [[(source, chosen, ""), (given[0][1], index, "")]] if is_same else []


def _operand_orders(p: fx.Node, m: fx.Node) -> Iterator[list[tuple[Any, Any, str]]]:
    """The ways to pair the arguments of two calls of one operation; none if one has what the other lacks."""
    schema = getattr(p.target, "_schema", None)
    if getattr(p.target, "namespace", "") in (NAMESPACE, OUTSIDE):
        # A semantic operation is written by passes and patterns, with its defaults or without.
        yield [(a, b, "") for a, b in zip(named_arguments(p).values(), named_arguments(m).values(), strict=True)]
        return
    if len(p.args) != len(m.args) or set(p.kwargs) != set(m.kwargs):
        return
    kinds = _size_arguments(str(schema))
    names = [a.name for a in schema.arguments] if schema else [""] * len(p.args)
    by_position = [kinds.get(name, "") for name in names[: len(p.args)]]
    keywords = [(p.kwargs[key], m.kwargs[key], kinds.get(key, "")) for key in p.kwargs]
    yield [*zip(p.args, m.args, by_position, strict=True), *keywords]
    if p.target in _COMMUTATIVE and len(m.args) == 2 and not m.kwargs:
        yield [*zip(p.args, reversed(m.args), by_position, strict=True), *keywords]


@cache
def _size_arguments(schema: str) -> dict[str, str]:
    """Sizes are bound, axes and steps are compared: the schema's types and names tell them apart.

    An argument that says the whole shape of the result is compared there, where no -1 stands in it.
    """
    names = set(re.findall(r"SymInt\S* (\w+)", schema)) - {"step"}
    return {name: "shape" if name in ("size", "shape") else "size" for name in names}


def _size(value: Any, m: fx.Node) -> Any:
    """A size as it is; the end of a slice counted from the front."""
    if isinstance(value, int) and value < 0 and m.target is aten.slice.Tensor:
        source, axis, *_ = arguments(m)
        return shape(source)[axis] + value
    return value.meta["val"] if isinstance(value, fx.Node) else value
