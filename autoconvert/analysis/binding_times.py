"""Binding times: what is known when the file is written, what depends on positions, and what on tokens."""

from enum import IntEnum

import torch
from torch import fx

from autoconvert import ops
from autoconvert.analysis.axis_rules import depends_on
from autoconvert.analysis.op_traits import is_random
from autoconvert.ir.interface import Role
from autoconvert.ir.program import Program


class Time(IntEnum):
    """When a value is known; a weight and a position together are known at run time only."""

    CONSTANT = 0
    WEIGHT = 1
    POSITION = 2
    TOKEN = 3


# When an input is known, by its role; every other depends on tokens.
_KNOWN = {Role.WEIGHT: Time.WEIGHT, Role.POSITIONS: Time.POSITION, Role.OFFSET: Time.POSITION}


def binding_times(program: Program) -> dict[fx.Node, Time]:
    """The binding time of every node, by one walk in order."""
    times: dict[fx.Node, Time] = {}
    for node in program.graph.graph.nodes:
        if node.op == "placeholder":
            times[node] = _KNOWN.get(program.roles.get(str(node.target), Role.TOKENS), Time.TOKEN)
        elif node.op == "get_attr":
            times[node] = Time.CONSTANT
        elif node.target is torch.ops.aten.sym_size.int:
            # The length is a fact about positions, whichever tensor it is read from.
            times[node] = Time.POSITION if depends_on(node.meta["val"], program.followed) else Time.TOKEN
        elif is_random(node.target) or node.target is ops.slot_numbers:
            # A random number is known when it is drawn, and how many slots there are when a file is run.
            times[node] = Time.TOKEN
        else:
            times[node] = _join([times[operand] for operand in node.all_input_nodes])
    return times


def _join(times: list[Time]) -> Time:
    if Time.WEIGHT in times and Time.POSITION in times:
        return Time.TOKEN
    return max(times, default=Time.CONSTANT)


def frontier(graph: fx.Graph, times: dict[fx.Node, Time], time: Time) -> list[fx.Node]:
    """The nodes of one binding time that a node of a later one, or the output, uses."""
    return [
        node for node in graph.nodes if times[node] is time and any(times.get(user) is not time for user in node.users)
    ]
