"""Every weight in a file, read back and compared with the tensor it was made of.

This reads the flatbuffer through the schema's accessors and shares no code with what wrote the file. A
constant is right when it is float32 and equal, float16 and the nearest there is, or int8 and no further than
half its row's step from the source, where the step is as fine as the row's largest number allows.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import schema_py_generated as schema

from autoconvert.errors import CheckFailed, InputError
from autoconvert.ir.weight import Weight

_FLOAT32, _FLOAT16, _INT8 = schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.INT8
_DTYPES: dict[int, np.dtype[Any]] = {
    _FLOAT32: np.dtype(np.float32),
    _FLOAT16: np.dtype(np.float16),
    _INT8: np.dtype(np.int8),
}
_ALLOWED = {"none": {_FLOAT32}, "fp16": {_FLOAT32, _FLOAT16}, "int8": {_FLOAT32, _INT8}}
_THREADS = 2
_CHUNK_ELEMENTS = 1 << 19
# Scale, quotient and product are rounded to float32, each by less than 127 * 2**-24 of a step.
_HALF_STEP = 0.5 + 5e-5
# A row of zeros has some step too; the recipe takes the one of this largest number.
_SMALLEST_BOUND = 1e-9
_BUG = "This is a bug in the conversion: please report it; the file must not be used."


ReadRows = Callable[[int, int], torch.Tensor]


class SourceTensors(Protocol):
    """The checkpoint: tensors by name, whole or some rows of them, in the dtype of its files."""

    def read(self, name: str) -> torch.Tensor: ...

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor: ...


@dataclass(frozen=True)
class CheckedConstants:
    """What was compared: constants and numbers in them, and the largest distance in steps of int8 rows.

    `absent` are weights that the file does not have, because no signature uses them.
    """

    constants: int
    numbers: int
    steps: float
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor whose data lies after the flatbuffer; `scales` float32 [rows], None where there are none."""

    name: str
    tensor_type: int
    shape: tuple[int, ...]
    offset: int
    size: int
    scales: npt.NDArray[np.float32] | None

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64))


class Constants:
    """The constants of a `.tflite`, by name, as the float32 numbers that they stand for.

    A weight that several signatures share is found by the weight's own name; `signature_inputs` are names by
    signature. Raises InputError when the file cannot be read as TFLite, and CheckFailed when a constant
    contradicts itself or the file ends within one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Mapped, since only the pages of the flatbuffer itself are touched.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[4:8] != b"TFL3":
                    raise InputError(f"{path} is not a TFLite file", hint="Give a .tflite file.")
                model = schema.Model.GetRootAs(data, 0)
                self.tensors = {stored.name: stored for stored in _external_tensors(model)}
                self.signature_inputs = dict(_signature_inputs(model))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, IndexError, struct.error) as error:
            raise InputError(f"{path} is damaged: {error}", hint="Convert the model again.") from error

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant."""
        return self._find(name).shape

    def read(self, name: str) -> torch.Tensor:
        """A constant, float32, dequantised."""
        stored = self._find(name)
        return torch.from_numpy(self.numbers(stored, 0, stored.rows).reshape(stored.shape))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of a constant, float32, dequantised."""
        stored = self._find(name)
        rows = self.numbers(stored, start, stop)
        return torch.from_numpy(rows.reshape(stop - start, *stored.shape[1:]))

    def numbers(self, stored: Stored, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows of a stored tensor dequantised, [stop - start, columns]."""
        numbers = self.raw(stored, start, stop).astype(np.float32)
        if stored.scales is not None:
            numbers *= stored.scales[start:stop, None]
        return numbers

    def raw(self, stored: Stored, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows of a stored tensor as they lie in the file, [stop - start, columns]."""
        dtype = _DTYPES[stored.tensor_type]
        row_size = stored.columns * dtype.itemsize
        with self._path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), (stop - start) * row_size, stored.offset + start * row_size)
        if len(data) != (stop - start) * row_size:
            raise CheckFailed(f"{self._path} ends within constant {stored.name!r}", hint=_BUG)
        rows: npt.NDArray[Any] = np.frombuffer(data, dtype).reshape(stop - start, stored.columns)
        return rows

    def _find(self, name: str) -> Stored:
        if name not in self.tensors:
            raise InputError(f"{self._path} has no constant {name!r}")
        return self.tensors[name]


def check_constants(path: Path, weights: Mapping[str, Weight], store: SourceTensors, scheme: str) -> CheckedConstants:
    """Compare every weight in the file with its source, a few rows at a time.

    `scheme` is how the file was asked to be stored: none, fp16 or int8. Raises CheckFailed naming the weight,
    the row and the distance when a number is further from its source than rounding explains, when a constant
    is stored in another way than asked, or when a weight is still an input.
    """
    constants = Constants(path)
    _check_inputs(constants, weights)
    compared: set[tuple[object, ...]] = set()
    found: set[str] = set()
    numbers, steps = 0, 0.0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        for name, stored in constants.tensors.items():
            weight = weights.get(name) or weights.get(name.rsplit("/", 1)[-1])
            if weight is None:
                _refuse_unknown(stored)
                continue
            found.add(weight.name)
            if stored.tensor_type not in _ALLOWED[scheme] or stored.shape != tuple(weight.shape):
                dtype = _DTYPES.get(stored.tensor_type, f"type {stored.tensor_type}")
                raise CheckFailed(f"constant {name!r} is {dtype} of {stored.shape} in a {scheme} file", hint=_BUG)
            key = (weight.sources, id(weight.program), stored.offset, stored.tensor_type)
            scales = None if stored.scales is None else stored.scales.tobytes()
            if (*key, scales) in compared:
                continue
            compared.add((*key, scales))
            read = _source_rows(weight, store)
            jobs = partial(_distance, constants, stored, weight, read)
            steps = max([steps, *pool.map(lambda rows, job=jobs: job(*rows), _row_ranges(stored))])
            numbers += stored.rows * stored.columns
    return CheckedConstants(len(compared), numbers, steps, tuple(name for name in weights if name not in found))


def _external_tensors(model: Any) -> Iterator[Stored]:
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            if buffer.Size() > 0:
                yield _stored(tensor, buffer)


def _stored(tensor: Any, buffer: Any) -> Stored:
    name = tensor.Name().decode()
    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    quantization = tensor.Quantization()
    scales = None
    if quantization is not None and quantization.ScaleLength() > 0:
        scales = np.array(quantization.ScaleAsNumpy(), np.float32)
        if quantization.QuantizedDimension() != 0 or np.any(quantization.ZeroPointAsNumpy()):
            raise CheckFailed(f"constant {name!r} is not quantised symmetrically by rows", hint=_BUG)
    stored = Stored(name, tensor.Type(), shape, buffer.Offset(), buffer.Size(), scales)
    if stored.tensor_type in _DTYPES:
        size = stored.rows * stored.columns * _DTYPES[stored.tensor_type].itemsize
        if stored.size != size:
            raise CheckFailed(f"constant {name!r} has {stored.size} bytes, its shape {size}", hint=_BUG)
    if stored.tensor_type == _INT8 and (scales is None or len(scales) != stored.rows):
        raise CheckFailed(f"constant {name!r} has no scale for each of its rows", hint=_BUG)
    return stored


def _signature_inputs(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for signature in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        inputs = map(signature.Inputs, range(signature.InputsLength()))
        yield signature.SignatureKey().decode(), tuple(entry.Name().decode() for entry in inputs)


def _check_inputs(constants: Constants, weights: Mapping[str, Weight]) -> None:
    for signature, inputs in constants.signature_inputs.items():
        for name in inputs:
            if name in weights:
                raise CheckFailed(f"weight {name!r} is still an input of signature {signature!r}", hint=_BUG)


def _refuse_unknown(stored: Stored) -> None:
    """Constants that the lowering made itself, such as tables, are exact: nothing else may be rounded."""
    if stored.scales is not None or stored.tensor_type == _FLOAT16:
        raise CheckFailed(f"constant {stored.name!r} is quantised, and no weight is its source", hint=_BUG)


def _row_ranges(stored: Stored) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK_ELEMENTS // max(1, stored.columns))
    for start in range(0, stored.rows, step):
        yield start, min(stored.rows, start + step)


def _source_rows(weight: Weight, store: SourceTensors) -> ReadRows:
    if weight.program is None and weight.shape:
        return partial(store.read_rows, weight.sources[0])
    with torch.no_grad():
        value = weight.evaluate(store.read)
    value = value.reshape(weight.shape or (1,))
    return lambda start, stop: value[start:stop]


def _distance(constants: Constants, stored: Stored, weight: Weight, read: ReadRows, start: int, stop: int) -> float:
    """The largest distance of these rows in steps, 0 where there are none; raises where it is too large."""
    source: npt.NDArray[np.float32] = read(start, stop).to(torch.float32).contiguous().numpy()
    source = source.reshape(stop - start, stored.columns)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = constants.numbers(stored, start, stop)
        distance -= source
        largest, farthest = _largest(source), _largest(distance)
        steps = np.zeros(stop - start, np.float32)
        if stored.tensor_type == _FLOAT32:
            right = farthest == 0
        elif stored.tensor_type == _FLOAT16:
            right = (np.abs(distance) <= _half_ulp_float16(source)).all(axis=1)
        else:
            assert stored.scales is not None
            step = stored.scales[start:stop]
            coarsest = np.maximum(largest, _SMALLEST_BOUND) / 127 * (1 + 1e-6)
            right = (step > 0) & (step <= coarsest) & (farthest <= step * _HALF_STEP)
            steps = farthest / step
    if not right.all():
        row = int(np.argmin(right))
        unit = f", {steps[row]:.4g} steps" if stored.tensor_type == _INT8 else ""
        raise CheckFailed(
            f"row {start + row} of constant {stored.name!r} lies {farthest[row]:.6g}{unit} from its source "
            f"{' and '.join(weight.sources)}, whose largest number there is {largest[row]:.6g}",
            hint=_BUG,
        )
    return float(steps.max(initial=0.0))


def _largest(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The largest magnitude of each row, NaN where there is one."""
    # Two passes that only read take half the time of one that also writes magnitudes.
    largest: npt.NDArray[np.float32] = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return largest


def _half_ulp_float16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Half the distance of neighbouring float16 numbers at each number; ten bits after the leading one."""
    _, exponent = np.frexp(np.abs(numbers))
    half: npt.NDArray[np.float32] = np.ldexp(np.float32(1), np.maximum(exponent - 1, -14) - 11)
    return half
