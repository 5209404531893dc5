"""Input ranges: between which numbers the inputs of a program lie."""

from collections.abc import Iterator

import torch
from torch import fx

from autoconvert.analysis.intervals import ANYTHING, Interval, whole
from autoconvert.analysis.op_traits import is_movement
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import shape
from autoconvert.ir.program import Program

aten = torch.ops.aten


def input_ranges(program: Program, context: int) -> dict[fx.Node, Interval]:
    """Of each placeholder: tokens of the vocabulary, any of `context` positions, and any number for all others."""
    known = {Role.TOKENS: whole(0, vocabulary(program) - 1), Role.INPUT_POS: whole(0, context - 1)}
    placeholders = program.graph.graph.find_nodes(op="placeholder")
    return {node: known.get(program.roles[str(node.target)]) or ANYTHING for node in placeholders}


def vocabulary(program: Program) -> int:
    """How many tokens there are: the rows of the tables that they are looked up in, or else those the logits tell."""
    tokens = program.find_input(Role.TOKENS)
    rows = [shape(table)[0] for table in _tables(tokens)] if tokens is not None else []
    logits = [port.shape[-1] for port in program.outputs if port.role is Role.LOGITS]
    counts = [count for count in (rows or logits) if isinstance(count, int)]
    return min(counts, default=2**31)


def _tables(numbers: fx.Node) -> Iterator[fx.Node]:
    """The tables whose rows `numbers` name, as they are, rearranged or cast."""
    for user in numbers.users:
        if user.target is aten.embedding.default and user.args[1] is numbers:
            table = user.args[0]
            assert isinstance(table, fx.Node)
            yield table
        elif user.target is aten._to_copy.default or (is_movement(user.target) and user.args[0] is numbers):
            yield from _tables(user)
