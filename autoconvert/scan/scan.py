"""A scan: states that flow from each position to the next, and the one step that changes them."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from autoconvert.ir.program import Program
from autoconvert.ir.types import Infer, TensorType
from autoconvert.scan.running_sum import RunningSum
from autoconvert.scan.shift_register import shift_register


class Scan(nn.Module):
    """Runs `step` over a whole sequence, its states zero at first.

    `step` takes the states [1, …] and the inputs of one position [1, …], and gives the outputs [1, …] and the next
    states. `rows` says how many rows of each input belong to one position, [positions · rows, …], or 0 for one that
    is the same for all. Gives the outputs [positions · rows, …].
    """

    def __init__(self, step: fx.GraphModule, states: Sequence[tuple[int, ...]], rows: Sequence[int]) -> None:
        super().__init__()
        self.step = step
        self.states = tuple(states)
        self.rows = tuple(rows)

    @property
    def unrolls(self) -> bool:
        """Whether a chunk runs the step once for each of its positions."""
        return shift_register(self.step, self.states) is None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        positions = torch.arange(self._length(inputs))
        outputs, _ = self.run(positions, [torch.zeros(1, *shape) for shape in self.states], inputs)
        return tuple(outputs)

    def run(
        self, input_pos: Tensor, states: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of a chunk at the positions `input_pos` int [chunk], and the states after it.

        A slot after the first whose position is not larger than the one before it is padding: it changes no state.
        """
        length = self._length(inputs)
        if length == 1:
            return self._one(states, inputs)
        register = shift_register(self.step, self.states)
        if register is not None:
            return register.run(input_pos, states[0], inputs[0])
        return self._one_after_another(input_pos, states, inputs)

    def _one(self, states: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        results = list(self.step(*states, *inputs))
        return results[: -len(states)], results[-len(states) :]

    def _one_after_another(
        self, input_pos: Tensor, states: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        length = self._length(inputs)
        columns = [torch.split(x, rows) if rows else [x] * length for x, rows in zip(inputs, self.rows, strict=True)]
        results: list[list[Tensor]] = []
        for slot in range(length):
            outputs, after = self._one(states, [column[slot] for column in columns])
            results.append(outputs)
            if slot:
                is_real = input_pos[slot] > input_pos[slot - 1]
                after = [torch.where(is_real, new, old) for new, old in zip(after, states, strict=True)]
            states = after
        return [torch.cat(parts) for parts in zip(*results, strict=True)], list(states)

    def types(self, inputs: Sequence[TensorType], infer: Infer) -> tuple[TensorType, ...]:
        """The types of what `forward` gives."""
        return self.types_of_run(inputs, infer)[0]

    def types_of_run(
        self, inputs: Sequence[TensorType], infer: Infer
    ) -> tuple[tuple[TensorType, ...], tuple[TensorType, ...]]:
        """The types of what `run` gives, from one step; raises ValueError where a step changes the type of a state."""
        before = tuple(TensorType(torch.float32, (1, *sizes)) for sizes in self.states)
        one = [
            TensorType(each.dtype, (rows, *each.sizes[1:])) if rows else each
            for each, rows in zip(inputs, self.rows, strict=True)
        ]
        results = tuple(infer(self.step, [*before, *one]))
        outputs, after = results[: -len(before)], results[-len(before) :]
        for old, new in zip(before, after, strict=True):
            if old != new:
                raise ValueError(f"a step makes a state {new} of {old}")
        length = next(each.sizes[0] // rows for each, rows in zip(inputs, self.rows, strict=True) if rows)
        return tuple(TensorType(each.dtype, (length * each.sizes[0], *each.sizes[1:])) for each in outputs), before

    def _length(self, inputs: Sequence[Tensor]) -> int:
        return next(len(value) // rows for value, rows in zip(inputs, self.rows, strict=True) if rows)


class StatefulScan(nn.Module):
    """The same over a chunk: takes `input_pos`, the states, then the inputs; gives the outputs and the states."""

    def __init__(self, scan: Scan | RunningSum) -> None:
        super().__init__()
        self.scan = scan

    def forward(self, input_pos: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        count = len(self.scan.states)
        outputs, states = self.scan.run(input_pos, values[:count], values[count:])
        return (*outputs, *states)

    def types(self, inputs: Sequence[TensorType], infer: Infer) -> tuple[TensorType, ...]:
        """The types of what `forward` gives; raises ValueError where a state is given in another than its own."""
        count = len(self.scan.states)
        outputs, states = self.scan.types_of_run(inputs[1 + count :], infer)
        for own, given in zip(states, inputs[1 : 1 + count], strict=True):
            if own != given:
                raise ValueError(f"the state {own} is given as {given}")
        return (*outputs, *states)


def unrolls(program: Program) -> bool:
    """Whether the program computes the positions of a chunk one after the other somewhere."""
    stateful = (module for module in program.graph.modules() if isinstance(module, StatefulScan))
    return any(module.scan.unrolls for module in stateful)
