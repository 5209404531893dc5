"""A `.tflite` in the runtime that a phone uses, its states kept between calls: lives in a process of its own.

Nothing here imports torch: the process is to be small and quick to start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoconvert.runtime.open_shapes import OPEN, Shapes, open_shapes

Array = npt.NDArray[Any]
_THREADS = 2


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of an input or output; an axis is OPEN where each call decides how long it is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class SignatureTypes:
    """Inputs and outputs of a signature by name."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]


class LoadedFile:
    """A file whose signatures can be called.

    What a signature takes and gives under one name is a state: zero at first, then what the last call left. Weights
    are packed into the file `packed`, which is mapped.

    Buffers are kept from call to call, as an app keeps them. When one signature needs more room, the runtime moves the
    memory that all share; a new buffer where that lay is not written by the next call of another signature, unless its
    sizes change (ai-edge-litert 2.3.0).
    """

    def __init__(self, path: str, packed: str) -> None:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

        cpu = CpuOptions(num_threads=_THREADS, xnnpack_weight_cache_path=packed)
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        self._model = CompiledModel.from_file(path, options=options)
        opened = open_shapes(Path(path))
        self._types = {name: self._types_of(name, *opened[name]) for name in self._model.get_signature_list()}
        # Of the inputs of each signature, in its last call.
        self._sizes: dict[str, Mapping[str, tuple[int, ...]]] = {}
        # Of what is no state, for the sizes of the last call.
        self._buffers: dict[str, _Buffers] = {}
        self._states: dict[str, _State] = {}
        # Of all shapes that a state has had.
        self._pairs: dict[tuple[str, tuple[int, ...]], _State] = {}

    def types(self) -> dict[str, SignatureTypes]:
        return self._types

    def reset(self) -> None:
        """States are zero again."""
        self._states.clear()

    def run(self, signature: str, inputs: Mapping[str, Array], history: int) -> dict[str, Array]:
        """Calls a signature with all inputs that are no state; gives all outputs that are none.

        States whose length is open have `history` entries, no fewer than at the call before.
        """
        types = self._types[signature]
        names = types.inputs.keys() & types.outputs.keys()
        sizes = {
            name: with_history(type_.shape, history) if name in names else np.shape(inputs[name])
            for name, type_ in types.inputs.items()
        }
        # The runtime wants as much room for what a call gives as the call before it needed.
        last = self._sizes.get(signature, sizes)
        is_shorter = any(sizes[name] < last[name] for name in names)
        self._resize(signature, sizes)
        states = {name: self._state(signature, name, sizes[name]) for name in names}
        buffers = self._buffers_of(signature)
        taken = {**buffers.taken, **{name: state.taken for name, state in states.items()}}
        given = {**buffers.given, **{name: state.given for name, state in states.items()}}
        if is_shorter:
            given |= {name: self._model.create_output_buffer_by_name(signature, name) for name in names}
        for name, buffer in buffers.taken.items():
            buffer.write(np.ascontiguousarray(inputs[name], types.inputs[name].dtype))
        self._model.run_by_name(signature, taken, given)
        for name, state in states.items():
            if is_shorter:
                state.taken.write(_read(given[name], state.type))
            else:
                state.taken, state.given = state.given, state.taken
        return {name: _read(buffer, types.outputs[name]) for name, buffer in buffers.given.items()}

    def _resize(self, signature: str, sizes: Mapping[str, tuple[int, ...]]) -> None:
        """Tells the runtime the lengths of what is open, where they are others than at the last call."""
        last = self._sizes.get(signature, {})
        for name, type_ in self._types[signature].inputs.items():
            if OPEN in type_.shape and last.get(name) != sizes[name]:
                self._model.resize_input_tensor_by_name(signature, name, sizes[name])
                self._buffers.pop(signature, None)
        self._sizes[signature] = sizes

    def _buffers_of(self, signature: str) -> "_Buffers":
        """Buffers of what is no state, made anew only where the runtime was told other sizes."""
        if signature not in self._buffers:
            types = self._types[signature]
            names = types.inputs.keys() & types.outputs.keys()
            take, give = self._model.create_input_buffer_by_name, self._model.create_output_buffer_by_name
            self._buffers[signature] = _Buffers(
                {name: take(signature, name) for name in types.inputs.keys() - names},
                {name: give(signature, name) for name in types.outputs.keys() - names},
            )
        return self._buffers[signature]

    def _state(self, signature: str, name: str, shape: tuple[int, ...]) -> "_State":
        """A state in this shape, lengthened where it was shorter."""
        state = self._states.get(name)
        if state is None or state.type.shape != shape:
            last, state = state, self._pair(signature, name, shape)
            zeros = np.zeros(shape, state.type.dtype)
            state.taken.write(zeros if last is None else lengthened(_read(last.taken, last.type), shape))
            self._states[name] = state
        return state

    def _pair(self, signature: str, name: str, shape: tuple[int, ...]) -> "_State":
        """The buffers of a state in this shape."""
        if (name, shape) not in self._pairs:
            # Of an output whose length is open the runtime does not know yet how much room it needs.
            taken, given = (self._model.create_input_buffer_by_name(signature, name) for _ in range(2))
            type_ = TensorType(shape, self._types[signature].inputs[name].dtype)
            self._pairs[name, shape] = _State(type_, taken, given)
        return self._pairs[name, shape]

    def _types_of(self, signature: str, inputs: Shapes, outputs: Shapes) -> SignatureTypes:
        model = self._model
        return SignatureTypes(
            tensor_types(model.get_input_tensor_details(signature), inputs),
            tensor_types(model.get_output_tensor_details(signature), outputs),
        )


@dataclass(frozen=True)
class _Buffers:
    """Inputs and outputs of a signature that are no states, by name."""

    taken: Mapping[str, Any]
    given: Mapping[str, Any]


@dataclass
class _State:
    """Buffers that the next call takes from and gives to."""

    type: TensorType
    taken: Any
    given: Any


def _read(buffer: Any, type_: TensorType) -> Array:
    count = int(np.prod(type_.shape))
    values: Array = np.array(buffer.read(count, type_.dtype.type)).reshape(type_.shape)
    return values


def with_history(shape: tuple[int, ...], history: int) -> tuple[int, ...]:
    """The shape of a state that has `history` entries where its length is open."""
    return tuple(history if size == OPEN else size for size in shape)


def lengthened(state: Array, shape: tuple[int, ...]) -> Array:
    """A state with zeros behind what it holds, which is at the beginning of each axis."""
    if state.shape == shape:
        return state
    longer = np.zeros(shape, state.dtype)
    longer[tuple(map(slice, state.shape))] = state
    return longer


def tensor_types(details: Mapping[str, Any], opened: Shapes) -> dict[str, TensorType]:
    """From what the runtime says of inputs or outputs, and the shapes of those that have an `opened` axis."""
    return {
        name: TensorType(opened.get(name, tuple(int(size) for size in detail["shape"])), np.dtype(detail["dtype"]))
        for name, detail in details.items()
    }
