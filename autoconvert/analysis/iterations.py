"""Loops in a trace: what each iteration made, and whether any of it is used but to be added to one sum."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from autoconvert import ops
from autoconvert.errors import Inseparable
from autoconvert.ir.nodes import arguments, first_operand
from autoconvert.ir.provenance import location

aten = torch.ops.aten


@dataclass(frozen=True)
class Iteration:
    """One pass through the body of a loop over the true entries of `hit`."""

    loop: int
    hit: fx.Node
    number: int


def iterations(graph: fx.Graph) -> dict[fx.Node, Iteration]:
    """The iteration in which each node was made; the mark that begins one belongs to it, the last mark to none."""
    marks = graph.find_nodes(op="call_function", target=ops.visit)
    last = {arguments(mark)[2]: mark for mark in marks}
    found: dict[fx.Node, Iteration] = {}
    current = None
    for node in graph.nodes:
        if node.target is ops.visit:
            hit, number, loop = arguments(node)
            current = None if last[loop] is node else Iteration(loop, hit, number)
        if current is not None:
            found[node] = current
    return found


def check_isolated(graph: fx.Graph) -> None:
    """Proves that iterations share nothing but one sum, to which each may add: `sum = sum.index_add(…)`.

    Then an iteration adds the same whether others happen or not. The graph must be as it was traced: shared
    subexpressions would look like values that are handed on.

    Raises:
        Inseparable: a value made in an iteration is used outside of it.
    """
    made = iterations(graph)
    lengths = {str(size) for node in graph.find_nodes(op="placeholder") for size in _sizes(node)}
    for node, iteration in made.items():
        for user in node.users:
            if made.get(user) != iteration and not _is_sum(node, user, made) and not _is_length(node, lengths):
                raise Inseparable(
                    f"{location(node)} is made in a loop whose iterations depend on the values of tokens, and is used "
                    f"after its iteration.",
                    hint="Only sums to which every iteration adds are covered.",
                )


def check_same(traced: ExportedProgram, without: ExportedProgram, *, sums: bool = True) -> None:
    """Proves that `traced` computes what `without` does, a trace of the same code in which no iteration happens.

    Sums count as they were before the iterations; without `sums` they must not have been added to.

    Raises:
        Inseparable: they differ, so that the code knows from elsewhere which iterations happened.
    """
    made = iterations(traced.graph)
    before = {n: first_operand(n) for n in made if n.target is aten.index_add.default} if sums else {}
    known: dict[Any, int] = {}
    if _number(traced, known, before) != _number(without, known, {}):
        raise Inseparable(
            f"{location(next(iter(made)))}: the model's code knows how often a loop runs whose iterations depend on "
            f"the values of tokens.",
            hint="Only what every iteration adds to a sum is covered.",
        )


def _number(exported: ExportedProgram, known: dict[Any, int], instead: dict[fx.Node, fx.Node]) -> int:
    """The number of what the graph returns: equal calls of equal operands have the same in `known`."""
    constants = exported.graph_signature.inputs_to_lifted_tensor_constants
    numbers: dict[fx.Node, int] = {}
    for node in exported.graph.nodes:
        if node in instead:
            numbers[node] = numbers[instead[node]]
            continue
        constant = exported.constants[constants[node.name]] if node.name in constants else None
        value = node.target if constant is None else (constant.dtype, constant.tolist())
        operands = fx.map_arg((node.args, node.kwargs), lambda n: f"%{numbers[n]}")
        numbers[node] = known.setdefault((node.op, str(value), str(operands)), len(known))
    return numbers[exported.graph.output_node()]


def _is_sum(node: fx.Node, user: fx.Node, made: dict[fx.Node, Iteration]) -> bool:
    """The loop is over and nothing was added after this, or the only user is the next to add."""
    if node.target is not aten.index_add.default:
        return False
    outside = [other for other in node.users if made.get(other) != made[node]]
    if not any(other in made and made[other].loop == made[node].loop for other in outside):
        return True
    adds = user.target is aten.index_add.default and user.args[0] is node and node not in user.args[1:]
    return adds and outside == [user]


def _sizes(node: fx.Node) -> list[torch.SymInt]:
    value = node.meta.get("val")
    return [size for size in getattr(value, "shape", ()) if isinstance(size, torch.SymInt)]


def _is_length(node: fx.Node, lengths: set[str]) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) in lengths
