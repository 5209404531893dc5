"""Checks a canonicalization rule where it applies: the node and what takes its place, on the same random inputs.

A rule may hold only for what its operands are: a mask of zeros and ones, a constant without axes. So the region grows
until such facts are inside it: first the operands are any values, then constants are those of the model, then what
computes the operands is run as well. A wrong rule gives other numbers in every region.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.constants import constant_value, digest
from autoconvert.analysis.op_traits import is_random
from autoconvert.check.region import LENGTH, random_value, same_numbers
from autoconvert.errors import CheckFailed
from autoconvert.ir.nodes import concrete, frozen
from autoconvert.ir.provenance import operation_in_module, source_line
from autoconvert.ir.types import type_of
from autoconvert.rewrite.rule import Rule

# How many operations in a row may make a fact, and how many there may be between a node and what a rule finds.
_LEVELS = 8
_NODES = 64


class RuleCheck:
    """Called with each application of a rule, before the node goes; those of the same structure are executed once."""

    def __init__(self) -> None:
        self.executed = 0
        self._known: dict[Hashable, bool | None] = {}

    def __call__(self, rule: Rule, node: fx.Node, new: fx.Node) -> None:
        """Raises CheckFailed where what takes the place of a node gives other numbers."""
        differs = False
        for region in _regions(node, new):
            key = (rule.name, region.structure)
            if key not in self._known:
                self._known[key] = region.is_the_same()
                self.executed += self._known[key] is not None
            if self._known[key]:
                return
            differs = differs or self._known[key] is False
        # Where no region takes random operands, the numbers of the whole graph are what tells.
        if not differs:
            return
        raise CheckFailed(
            f"Rule {rule.name} gives other numbers than what it replaces, {node.target}, at {source_line(node)}.",
            hint="The rule is wrong for these operands: it must decline, or give another operation.",
            blamed=f"rule {rule.name}",
            at=operation_in_module(node),
            line=source_line(node),
        )


def _regions(node: fx.Node, new: fx.Node) -> Iterator["_Region"]:
    """From the smallest one, that from the operands which the rule found, to larger ones."""
    made = _made(new)
    found = {operand for each in made for operand in each.all_input_nodes} - made if made else {new}
    inside = {node} | made | _way(node, found)
    yield _Region(node, new, inside, {})
    for _ in range(_LEVELS):
        inputs = _Region(node, new, inside, {}).inputs
        constants = {each: value for each in inputs if (value := _constant(each)) is not None}
        yield _Region(node, new, inside, constants)
        more = {each for each in inputs if _is_run(each) and each not in constants}
        if not more or len(inside) > _NODES:
            return
        inside = inside | more


def _made(new: fx.Node) -> set[fx.Node]:
    """What a rule made: nobody but its result uses it yet."""
    made: set[fx.Node] = set()
    pending = [new]
    while pending:
        node = pending.pop()
        if node not in made and made.issuperset(node.users) and node.op == "call_function":
            made.add(node)
            pending.extend(node.all_input_nodes)
    return made


def _way(node: fx.Node, found: set[fx.Node]) -> set[fx.Node]:
    """What is computed from `found` and is needed for `node`."""
    before: dict[fx.Node, None] = {}
    pending = [operand for operand in node.all_input_nodes if operand not in found]
    for each in pending:
        if each not in before and len(before) < _NODES:
            before[each] = None
            pending.extend(operand for operand in each.all_input_nodes if operand not in found)
    way: set[fx.Node] = set()
    for each in sorted(before):
        if not (found | way).isdisjoint(each.all_input_nodes):
            way.add(each)
    return {each for each in way if _is_run(each)}


def _is_run(node: fx.Node) -> bool:
    """Sizes are given as numbers."""
    return node.op == "call_function" and isinstance(node.meta["val"], Tensor | list | tuple)


def _constant(node: fx.Node) -> Tensor | None:
    return constant_value(node) if isinstance(node.meta["val"], Tensor) else None


@dataclass(frozen=True)
class _Region:
    """The nodes `inside` compute `node` and `new`; of what they take, `constants` are as the model has them."""

    node: fx.Node
    new: fx.Node
    inside: set[fx.Node]
    constants: dict[fx.Node, Tensor]

    @cached_property
    def nodes(self) -> list[fx.Node]:
        return sorted(self.inside)

    @cached_property
    def inputs(self) -> list[fx.Node]:
        """What the region takes, in the order of its use."""
        found = (operand for node in self.nodes for operand in node.all_input_nodes if operand not in self.inside)
        return list(dict.fromkeys(found))

    @cached_property
    def _of_old(self) -> set[fx.Node]:
        """What computes `node`, which stays."""
        found, pending = set[fx.Node](), [self.node]
        while pending:
            node = pending.pop()
            if node in self.inside and node not in found:
                found.add(node)
                pending.extend(node.all_input_nodes)
        return found

    @cached_property
    def structure(self) -> Hashable:
        """Equal for regions of equal operations on operands of equal types."""
        index = {node: f"%{place}" for place, node in enumerate((*self.inputs, *self.nodes))}
        types = [type_of(node.meta["val"]) for node in self.inputs]
        constants = [(index[node], digest(value)) for node, value in self.constants.items()]
        lines = [(node.target, frozen(fx.map_arg((node.args, node.kwargs), lambda n: index[n]))) for node in self.nodes]
        return (index[self.node], index[self.new], *types, *constants, *lines)

    def is_the_same(self) -> bool | None:
        """Whether both sides give the same numbers of the same type; None where random operands tell nothing."""
        values = self._run(self._random_inputs())
        if _is_nan(values.get(self.node)):
            # What no negative number has, as roots, says something of positive ones only.
            values = self._run({node: _positive(value) for node, value in self._random_inputs().items()})
        floats = [v.dtype for v in values.values() if isinstance(v, Tensor) and v.is_floating_point()]
        epsilon = max((torch.finfo(dtype).eps for dtype in floats), default=0)
        if not values or _is_nan(values[self.node]):
            return None
        return self.new in values and _same(values[self.new], values[self.node], epsilon)

    def _run(self, inputs: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        """All values of the region, without the new one's where that cannot be computed as the old one can.

        None where the operands are not such as an operation takes.
        """
        values = inputs | self.constants
        has_chance = any(is_random(node.target) for node in self.nodes)
        with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=has_chance):
            # The old side first: what it does not take tells nothing of the new one.
            for node in sorted(self.nodes, key=lambda node: node not in self._of_old):
                if is_random(node.target):
                    # Chance is the same on both sides.
                    torch.manual_seed(0)
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
                try:
                    values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
                except (RuntimeError, IndexError):
                    return {} if node in self._of_old else values
        return values

    def _random_inputs(self) -> dict[fx.Node, Any]:
        generator = torch.Generator().manual_seed(0)
        tensors = [node.meta["val"] for node in self.inputs if isinstance(node.meta["val"], Tensor)]
        # A number may pick an entry of any other value.
        sizes = [concrete(size, LENGTH) for value in tensors for size in value.shape]
        below = min((size for size in sizes if size > 1), default=LENGTH)
        return {node: _value(node.meta["val"], generator, below) for node in self.inputs if node not in self.constants}


def _value(value: Any, generator: torch.Generator, below: int) -> Any:
    if isinstance(value, Tensor):
        return random_value(value, generator, below)
    if isinstance(value, list | tuple):
        return [_value(part, generator, below) for part in value]
    return concrete(value, LENGTH) if isinstance(value, torch.SymInt) else value


def _positive(value: Any) -> Any:
    return value.abs() if isinstance(value, Tensor) and value.is_floating_point() else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0 and bool(value.isnan().all())


def _same(actual: Any, expected: Any, epsilon: float) -> bool:
    """As near as the coarsest type comes that was computed in."""
    if not isinstance(actual, Tensor) or (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return False
    if expected.is_complex():
        return _same(torch.view_as_real(actual), torch.view_as_real(expected), epsilon)
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    if epsilon <= torch.finfo(torch.float32).eps:
        return same_numbers(actual, expected)
    return torch.allclose(actual.double(), expected.double(), rtol=8 * epsilon, atol=8 * epsilon, equal_nan=True)
