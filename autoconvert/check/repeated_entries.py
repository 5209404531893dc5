"""Repeated entries: caches that hold each number of a position several times, as where heads are repeated too early.

A repetition right before attention is none of those: patterns give attention the heads before it. One that is followed
by a norm or a rotary embedding goes into the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.analysis.op_traits import CONTRACTIONS, REPETITIONS
from autoconvert.check.region import LENGTH, random_value
from autoconvert.ir.nodes import concrete, first_operand, named_results
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import source_line
from autoconvert.ir.state import State, Write

# How many operations back from a cache a repetition is looked for, and how large an input of one may be.
_MOST, _LARGEST = 128, 1 << 16
_NOT_RUN = (RuntimeError, IndexError, ValueError, TypeError)


@dataclass(frozen=True)
class Repeated:
    """Caches that hold each number `times`, since the line `at` repeats it: `nbytes` more than each number once."""

    caches: tuple[str, ...]
    times: int
    at: str
    nbytes: int


def repeated_entries(program: Program) -> list[Repeated]:
    """The caches of a program that hold numbers several times, those of one line of the model together."""
    found: dict[tuple[str, int], list[State]] = {}
    for state, times, at in _found(program):
        found.setdefault((at, times), []).append(state)
    return [
        Repeated(tuple(state.name for state in states), times, at, sum(_more(state, times) for state in states))
        for (at, times), states in found.items()
    ]


def _found(program: Program) -> Iterator[tuple[State, int, str]]:
    written = _written(program)
    for state in program.states:
        if state.write is not Write.APPEND or state.name not in written:
            continue
        region = _region(written[state.name])
        repetition = next((node for node in region if node.target in REPETITIONS), None)
        if repetition is not None and (times := _times_or_once(region)) > 1:
            yield state, times, source_line(repetition)


def _written(program: Program) -> dict[str, fx.Node]:
    """What a call writes into each cache, by its name."""
    written = {}
    for name, node in named_results(program.graph.graph).items():
        if node.target is ops.write_slots:
            written[name] = first_operand(node)
        elif node.args and isinstance(call := node.args[0], fx.Node) and call.target is ops.cached_attention:
            # Its results are what attention gives, keys and values; its operands queries, keys and values.
            written[name] = call.args[node.args[1]]  # type: ignore[index,assignment]
    return written


def _region(value: fx.Node) -> list[fx.Node]:
    """What computes `value` from products with weights, and from what large tables hold, in order."""
    region: set[fx.Node] = set()
    pending = [value]
    while pending and len(region) < _MOST:
        node = pending.pop()
        if node not in region and _is_run(node):
            region.add(node)
            pending.extend(node.all_input_nodes)
    return sorted(region)


def _is_run(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target in CONTRACTIONS:
        return False
    held = (n.meta["val"] for n in node.all_input_nodes if n.op in ("placeholder", "get_attr"))
    sizes = (prod(concrete(size, LENGTH) for size in value.shape) for value in held if isinstance(value, Tensor))
    return max(sizes, default=0) <= _LARGEST


def _times_or_once(region: list[fx.Node]) -> int:
    """As `_times`; 1 where an operation does not take random operands."""
    try:
        with torch.no_grad():
            return _times(region)
    except _NOT_RUN:
        return 1


def _times(region: list[fx.Node]) -> int:
    """How many times each number stands in the last value of a region that takes random ones."""
    generator = torch.Generator().manual_seed(0)
    inside = set(region)
    values: dict[fx.Node, Any] = {}
    for node in region:
        for operand in node.all_input_nodes:
            if operand not in inside and operand not in values:
                values[operand] = _given(operand.meta["val"], generator)
        if isinstance(node.meta["val"], torch.SymInt):
            values[node] = concrete(node.meta["val"], LENGTH)
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
        values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    # Some numbers are equal by themselves, as the zeros of a ReLU.
    _, counts = values[region[-1]].unique(return_counts=True)
    return gcd(*counts.tolist())


def _given(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, Tensor):
        return random_value(value, generator, LENGTH)
    if isinstance(value, list | tuple):
        return [_given(part, generator) for part in value]
    return concrete(value, LENGTH) if isinstance(value, torch.SymInt) else value


def _more(state: State, times: int) -> int:
    nbytes = prod(int(size) for size in state.shape) * state.dtype.itemsize
    return nbytes - nbytes // times
