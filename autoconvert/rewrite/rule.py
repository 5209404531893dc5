"""A rewrite rule: the operations it is about, and what a node that calls one of them becomes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

# An `OpOverload`, or `operator.getitem`.
Operation = Callable[..., Any]


@dataclass(frozen=True)
class Rewriter:
    """What a rule may know and do beside reading its node and adding nodes before it.

    `weights` are the placeholders that are parameters, by name, `counted` those whose numbers are counted: tokens and
    positions. `replace` gives the users of another node to a new
    one; what it gives a rule's own node, a rule returns.
    """

    weights: Collection[str]
    counted: Collection[str]
    replace: Callable[[fx.Node, fx.Node], None]

    def is_weight(self, node: fx.Node) -> bool:
        """Whether a value depends on parameters and constants alone."""
        return _depends_only_on(self.weights, node)

    def is_counted(self, node: fx.Node) -> bool:
        """Whether a value depends on tokens, positions and constants alone: its last bit may decide a step."""
        return _depends_only_on(self.counted, node)


def _depends_only_on(names: Collection[str], node: fx.Node) -> bool:
    seen: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current.op == "placeholder" and current.target not in names:
            return False
        if current not in seen:
            seen.add(current)
            pending.extend(current.all_input_nodes)
    return True


@dataclass(frozen=True)
class Rule:
    """`rewrite` gives the node that takes the place of one that calls one of `operations`, or None to decline.

    The new node computes the same; nodes that it needs are inserted before the old one. No operations stand for any.
    One that `rounds` gives other last bits, and is not applied to what is counted.
    """

    name: str
    operations: frozenset[Operation]
    rewrite: Callable[[fx.Node, Rewriter], fx.Node | None]
    rounds: bool = False


# Sees the rule, the node and what takes its place, while both are in the graph.
OnRewrite = Callable[[Rule, fx.Node, fx.Node], None]


def rule(*operations: Operation) -> Callable[[Callable[[fx.Node], fx.Node | None]], Rule]:
    """Declares a rule that needs the node alone."""

    def declared(function: Callable[[fx.Node], fx.Node | None]) -> Rule:
        return Rule(_name(function), frozenset(operations), lambda node, _: function(node))

    return declared


def rounding_rule(*operations: Operation) -> Callable[[Callable[[fx.Node], fx.Node | None]], Rule]:
    """As `rule`, of one whose result is rounded in another way."""

    def declared(function: Callable[[fx.Node], fx.Node | None]) -> Rule:
        return Rule(_name(function), frozenset(operations), lambda node, _: function(node), rounds=True)

    return declared


def rewriter_rule(*operations: Operation) -> Callable[[Callable[[fx.Node, Rewriter], fx.Node | None]], Rule]:
    """Declares a rule that asks the rewriter."""
    return lambda function: Rule(_name(function), frozenset(operations), function)


def _name(function: Callable[..., Any]) -> str:
    """`arithmetic.root_is_sqrt`"""
    return f"{function.__module__.split('.')[-1]}.{function.__name__.strip('_')}"


class RuleTable:
    """Rules by operation, in their order; those of any operation come last, and are all that an unknown one has."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._of_any = tuple(rule for rule in rules if not rule.operations)
        operations = {operation for rule in rules for operation in rule.operations}
        self._by_operation = {
            operation: (*(rule for rule in rules if operation in rule.operations), *self._of_any)
            for operation in operations
        }

    def __getitem__(self, operation: Operation) -> tuple[Rule, ...]:
        return self._by_operation.get(operation, self._of_any)
