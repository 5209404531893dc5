"""A `.tflite` run step by step in the runtime's kernels, its weights asked for: lives in a process of its own."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autoconvert.runtime.loaded_file import SignatureTypes, TensorType, lengthened, with_history
from autoconvert.runtime.open_shapes import OPEN
from autoconvert.runtime.steps import Array, Piece, Product, Rows, Step, Stepped, SteppedFile, makes, reads

_THREADS = 2
# Distinct pieces that stay open.
_OPEN_PIECES = 128


@dataclass(frozen=True)
class Call:
    """A call of `signature` with all inputs that are no state; `real` of its `slots` are tokens, the rest padding.

    States whose length is open have `history` entries.
    """

    signature: str
    inputs: Mapping[str, Array]
    real: int
    slots: int
    history: int


@dataclass(frozen=True)
class Needs:
    """What a run waits for: of the weight with this name its product with `x`, its rows `indices`, or all of it."""

    weight: str
    x: Array | None = None
    indices: Array | None = None


@dataclass(frozen=True)
class Waits:
    """A run waits for a state that the run before it has not given yet."""


@dataclass(frozen=True)
class Finished:
    """A run is at its end; `outputs` are those that are no states."""

    outputs: Mapping[str, Array]


@dataclass
class _Run:
    """A signature under way.

    `values` are by tensor, `given` the weights of the next step, `pending` what it waits for. `before` is the run whose
    states it takes, and `taken` the outputs that the run after it has taken or will never take.
    """

    call: Call
    signature: Stepped
    before: "_Run | None"
    values: dict[int, Array]
    taken: set[int] = field(default_factory=set)
    next_step: int = 0
    given: dict[str, Array] = field(default_factory=dict)
    pending: Needs | None = None

    def from_before(self, tensor: int) -> int | None:
        """The output of the run before that an input is, where there is one."""
        return None if self.before is None else self.before.signature.outputs.get(self.signature.ports[tensor])

    def forget(self, tensors: Iterable[int]) -> None:
        """Drops what no later step reads, and no other run."""
        states = self.signature.state_outputs
        for tensor in tensors:
            last = self.signature.last_use.get(tensor)
            if last is not None and last < self.next_step and (tensor not in states or tensor in self.taken):
                self.values.pop(tensor, None)


class StepwiseFile:
    """Runs of a file's signatures, each at its own step; the states of a run are those that the one before leaves."""

    def __init__(self, path: str, weights: Collection[str]) -> None:
        self._file = SteppedFile(Path(path), frozenset(weights))
        self._open = lru_cache(_OPEN_PIECES)(self._open_piece)
        self._runs: list[_Run] = []

    def types(self) -> dict[str, SignatureTypes]:
        """Inputs and outputs of the signatures, by name."""
        return {
            name: SignatureTypes(_types(signature, signature.inputs), _types(signature, signature.outputs))
            for name, signature in self._file.signatures.items()
        }

    def begin(self, chains: list[list[Call]]) -> None:
        """Begins the runs of calls; before the first of a chain, states are zero."""
        self._runs = []
        for chain in chains:
            self._begin(chain)

    def _begin(self, chain: list[Call]) -> None:
        before: _Run | None = None
        for call in chain:
            signature = self._file.signatures[call.signature]
            values = {
                tensor: np.ascontiguousarray(call.inputs[port], signature.dtype(tensor))
                for port, tensor in signature.inputs.items()
                if port in call.inputs
            }
            before = _Run(call, signature, before, values)
            self._runs.append(before)
        if before is not None:
            before.taken |= before.signature.state_outputs

    def advance(self, number: int, given: Array | None = None) -> Needs | Waits | Finished:
        """Runs on, `given` what was needed, until something is needed."""
        run = self._runs[number]
        steps = run.signature.steps
        if given is not None:
            self._take(run, steps[run.next_step], given)
        while run.next_step < len(steps):
            step = steps[run.next_step]
            if not all(self._is_at_hand(run, tensor) for tensor in reads(step)):
                return Waits()
            run.pending = self._needs(run, step)
            if run.pending is not None:
                return run.pending
            assert isinstance(step, Piece)
            self._run_piece(run, step)
            self._leave(run, step)
        signature = run.signature
        named = {port: tensor for port, tensor in signature.outputs.items() if port not in signature.inputs}
        return Finished({port: self._value(run, tensor) for port, tensor in named.items()})

    def _needs(self, run: _Run, step: Step) -> Needs | None:
        weights = (run.signature.weights[tensor] for tensor in reads(step) if tensor in run.signature.weights)
        if (weight := next((name for name in weights if name not in run.given), None)) is not None:
            return Needs(weight)
        match step:
            case Product():
                return Needs(step.weight, x=without_padding(self._value(run, step.x), run.call))
            case Rows():
                return Needs(step.weight, indices=self._value(run, step.indices))
            case Piece():
                return None

    def _take(self, run: _Run, step: Step, given: Array) -> None:
        assert run.pending is not None
        match step:
            case Product() if run.pending.x is not None:
                result = with_padding(given, prod(self._value(run, step.x).shape[:-1]))
                result = result if step.bias is None else result + self._value(run, step.bias)
                result = activated(result, step.activation)
            case Rows() if run.pending.indices is not None:
                result = given
            case _:
                run.given[run.pending.weight] = given
                return
        run.values[step.output] = result.reshape(run.signature.shape(step.output))
        self._leave(run, step)

    def _run_piece(self, run: _Run, piece: Piece) -> None:
        values = [self._value(run, tensor) for tensor in piece.inputs]
        shapes = tuple(value.shape for value in values)
        interpreter, inputs, outputs = self._open(_Keyed((piece.key, shapes), run.signature, piece, shapes))
        for value, index in zip(values, inputs, strict=True):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        for tensor, index in zip(piece.outputs, outputs, strict=True):
            run.values[tensor] = interpreter.get_tensor(index)

    def _open_piece(self, keyed: "_Keyed") -> tuple[Any, list[int], list[int]]:
        from ai_edge_litert.interpreter import Interpreter

        content = self._file.file_of(keyed.signature, keyed.piece)
        interpreter = Interpreter(model_content=content, num_threads=_THREADS)
        inputs, outputs = (
            [tensor["index"] for tensor in tensors]
            for tensors in (interpreter.get_input_details(), interpreter.get_output_details())
        )
        for index, tensor, shape in zip(inputs, keyed.piece.inputs, keyed.shapes, strict=True):
            if OPEN in keyed.signature.shape(tensor):
                interpreter.resize_tensor_input(index, shape)
        interpreter.allocate_tensors()
        return interpreter, inputs, outputs

    def _is_at_hand(self, run: _Run, tensor: int) -> bool:
        if tensor in run.values or tensor not in run.signature.ports:
            return True
        output = run.from_before(tensor)
        return run.before is None or output in run.before.values

    def _value(self, run: _Run, tensor: int) -> Array:
        signature = run.signature
        if tensor in run.values:
            return run.values[tensor]
        if tensor in signature.weights:
            return run.given[signature.weights[tensor]]
        if tensor not in signature.ports:
            constant = self._file.constant(signature, tensor)
            assert constant is not None, f"tensor {tensor} has no value"
            return constant
        shape = with_history(signature.shape(tensor), run.call.history)
        if run.before is None:
            run.values[tensor] = np.zeros(shape, signature.dtype(tensor))
        else:
            output = run.from_before(tensor)
            assert output is not None
            run.values[tensor] = lengthened(run.before.values[output], shape)
            run.before.taken.add(output)
            run.before.forget([output])
        return run.values[tensor]

    def _leave(self, run: _Run, step: Step) -> None:
        run.given.clear()
        run.next_step += 1
        run.forget((*reads(step), *makes(step)))


@dataclass(frozen=True, eq=False)
class _Keyed:
    """A piece for inputs of these shapes, that equals every other with its key."""

    key: tuple[Any, ...]
    signature: Stepped
    piece: Piece
    shapes: tuple[tuple[int, ...], ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _types(signature: Stepped, ports: Mapping[str, int]) -> dict[str, TensorType]:
    return {
        port: TensorType(signature.shape(tensor), np.dtype(signature.dtype(tensor))) for port, tensor in ports.items()
    }


def without_padding(x: Array, call: Call) -> Array:
    """The rows [tokens, columns] of a factor [..., slots, columns]; one whose rows are no slots as it is."""
    rows: Array = x.reshape(-1, x.shape[-1])
    return rows[: call.real] if len(rows) == call.slots else rows


def with_padding(product: Array, rows: int) -> Array:
    """A product of `rows`: where its factor was without padding, the last row stands for what nobody reads."""
    return np.concatenate([product, np.repeat(product[-1:], rows - len(product), axis=0)])


def activated(values: Array, activation: int) -> Array:
    """The fused activation of an operator, by its number in the schema."""
    kinds = schema.ActivationFunctionType
    if activation == kinds.NONE:
        return values
    if activation == kinds.RELU:
        return np.maximum(values, 0)
    if activation == kinds.RELU_N1_TO_1:
        return np.clip(values, -1, 1)
    if activation == kinds.RELU6:
        return np.clip(values, 0, 6)
    if activation == kinds.TANH:
        return np.tanh(values)
    raise NotImplementedError(f"activation {activation} of FULLY_CONNECTED")
