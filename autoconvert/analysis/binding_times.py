"""Binding times: what is known when the file is written, what depends on positions, and what on tokens."""

from enum import IntEnum

import torch
from torch import fx

from autoconvert.analysis.op_traits import is_random
from autoconvert.tracing.one_step import OFFSET
from autoconvert.tracing.trace import POSITIONS


class Time(IntEnum):
    """When a value is known; a weight and a position together are known at run time only."""

    CONSTANT = 0
    WEIGHT = 1
    POSITION = 2
    TOKEN = 3


def binding_times(graph: fx.Graph) -> dict[fx.Node, Time]:
    """The binding time of every node, by one walk in order."""
    times: dict[fx.Node, Time] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            times[node] = _placeholder_time(node)
        elif node.op == "get_attr":
            times[node] = Time.CONSTANT
        elif node.target is torch.ops.aten.sym_size.int:
            # A length is a fact about positions, whichever tensor it is read from.
            times[node] = Time.POSITION
        elif is_random(node.target):
            # A random number is known when it is drawn.
            times[node] = Time.TOKEN
        else:
            times[node] = _join([times[operand] for operand in node.all_input_nodes])
    return times


def _placeholder_time(node: fx.Node) -> Time:
    if node.meta.get("is_weight"):
        return Time.WEIGHT
    return Time.POSITION if node.target in (POSITIONS, OFFSET) else Time.TOKEN


def _join(times: list[Time]) -> Time:
    if Time.WEIGHT in times and Time.POSITION in times:
        return Time.TOKEN
    return max(times, default=Time.CONSTANT)


def frontier(graph: fx.Graph, times: dict[fx.Node, Time], time: Time) -> list[fx.Node]:
    """The nodes of one binding time that a node of a later one, or the output, uses."""
    return [
        node for node in graph.nodes if times[node] is time and any(times.get(user) is not time for user in node.users)
    ]
