"""Shift registers: a state that is the last few inputs. What a step sees of it is a window of the sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx

from autoconvert.ir.nodes import arguments, first_operand

aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """Entries `start` up to `stop` of the state's `length` entries followed by the one new entry."""

    start: int
    stop: int


@dataclass(frozen=True)
class ShiftRegister:
    """A state of `length` entries along `axis` (counted from the end); each output of a step is a window."""

    axis: int
    length: int
    outputs: tuple[Window, ...]

    def run(self, input_pos: Tensor, state: Tensor, new: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """As Scan.run: `state` [1, …, length, …], `new` [chunk, …, 1, …] with one entry a position."""
        chunk = len(new)
        sequence = torch.cat([state, new.transpose(0, self.axis)], self.axis)
        outputs = [
            torch.cat(
                [
                    sequence.narrow(self.axis, entry, chunk).transpose(0, self.axis)
                    for entry in range(window.start, window.stop)
                ],
                self.axis,
            )
            for window in self.outputs
        ]
        real = 1 + (input_pos[1:] > input_pos[:-1]).to(torch.int32).sum(dtype=torch.int32)
        last = real + torch.arange(self.length, dtype=torch.int32)
        return outputs, [sequence.index_select(self.axis, last)]


def shift_register(step: fx.GraphModule, states: Sequence[tuple[int, ...]]) -> ShiftRegister | None:
    """The register that `step` is, if it is one: its only state moves on by the only input, one entry."""
    placeholders = step.graph.find_nodes(op="placeholder")
    cats = step.graph.find_nodes(op="call_function", target=aten.cat.default)
    if len(states) != 1 or len(placeholders) != 2 or not cats or len(cats[0].args) < 2:
        return None
    axis = cats[0].args[1]
    assert isinstance(axis, int)
    length = (1, *states[0])[axis]
    windows = {placeholders[0]: Window(0, length), placeholders[1]: Window(length, length + 1)}
    for node in step.graph.nodes:
        if node.op == "call_function":
            window = _window(node, axis, windows)
            if window is None:
                return None
            windows[node] = window
    *outputs, after = arguments(step.graph.output_node())[0]
    if windows.get(after) != Window(1, length + 1):
        return None
    return ShiftRegister(axis, length, tuple(windows[output] for output in outputs))


def _window(node: fx.Node, axis: int, windows: dict[fx.Node, Window]) -> Window | None:
    if node.target is aten.cat.default and node.args[1:] == (axis,):
        parts = [windows[part] for part in arguments(node)[0]]
        joined = all(left.stop == right.start for left, right in pairwise(parts))
        return Window(parts[0].start, parts[-1].stop) if joined else None
    if node.target is aten.slice.Tensor and node.args[1] == axis and len(node.args) in (3, 4):
        source = windows[first_operand(node)]
        start, stop = (*arguments(node)[2:], None)[:2]
        whole = range(source.start, source.stop)[start:stop]
        return Window(whole.start, whole.stop) if len(whole) else None
    return None
