"""A `.tflite` in the runtime that a phone uses, its states kept between calls: lives in a process of its own.

Nothing here imports torch: the process is to be small and quick to start.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_THREADS = 2


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of an input or output."""

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
    that the runtime packs lie in a file that is mapped, not in memory of their own.
    """

    def __init__(self, path: str) -> None:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

        self._folder = tempfile.TemporaryDirectory(prefix="autoconvert-", ignore_cleanup_errors=True)
        cpu = CpuOptions(num_threads=_THREADS, xnnpack_weight_cache_path=str(Path(self._folder.name, "packed")))
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        self._model = CompiledModel.from_file(path, options=options)
        self._types = {name: self._types_of(name) for name in self._model.get_signature_list()}
        self._taken: dict[str, Any] = {}
        self._given: dict[str, Any] = {}

    def types(self) -> dict[str, SignatureTypes]:
        return self._types

    def reset(self) -> None:
        """States are zero again."""
        for name, buffer in self._taken.items():
            buffer.write(self._zeros(name))

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Calls a signature with all inputs that are no state; gives all outputs that are none."""
        types = self._types[signature]
        states = types.inputs.keys() & types.outputs.keys()
        for name in states - self._taken.keys():
            self._taken[name] = self._model.create_input_buffer_by_name(signature, name)
            self._given[name] = self._model.create_output_buffer_by_name(signature, name)
            self._taken[name].write(self._zeros(name))
        taken = {name: self._taken[name] for name in states}
        given = {name: self._given[name] for name in states}
        for name in types.inputs.keys() - states:
            taken[name] = self._model.create_input_buffer_by_name(signature, name)
            taken[name].write(np.ascontiguousarray(inputs[name], types.inputs[name].dtype))
        for name in types.outputs.keys() - states:
            given[name] = self._model.create_output_buffer_by_name(signature, name)
        self._model.run_by_name(signature, taken, given)
        for name in states:
            self._taken[name], self._given[name] = self._given[name], self._taken[name]
        return {name: self._read(given[name], types.outputs[name]) for name in types.outputs.keys() - states}

    def _types_of(self, signature: str) -> SignatureTypes:
        model = self._model
        return SignatureTypes(
            tensor_types(model.get_input_tensor_details(signature)),
            tensor_types(model.get_output_tensor_details(signature)),
        )

    def _zeros(self, state: str) -> Array:
        type_ = next(types.inputs[state] for types in self._types.values() if state in types.inputs)
        return np.zeros(type_.shape, type_.dtype)

    @staticmethod
    def _read(buffer: Any, type_: TensorType) -> Array:
        count = int(np.prod(type_.shape))
        values: Array = np.array(buffer.read(count, type_.dtype.type)).reshape(type_.shape)
        return values


def tensor_types(details: Mapping[str, Any]) -> dict[str, TensorType]:
    """From what the runtime says of inputs or outputs."""
    return {
        name: TensorType(tuple(int(size) for size in detail["shape"]), np.dtype(detail["dtype"]))
        for name, detail in details.items()
    }
