"""What a `.tflite` has after its flatbuffer: constants by name, read through the schema's accessors alone."""

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import schema_py_generated as schema

from autoconvert.errors import BROKEN, CheckFailed, InputError
from autoconvert.lowering.flatbuffer import FILE_IDENTIFIER, root_of
from autoconvert.quantization.encoding import Encoding, Numbers
from autoconvert.quantization.recipes import ENCODINGS

BUG = "This is a bug in the conversion: please report it; the file must not be used."
_TYPE_NAMES = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}


@dataclass(frozen=True)
class Stored:
    """A tensor whose data lies after the flatbuffer; `scales` float32 [scales], as the file lists them.

    `block` is how many numbers of a row share one, where they are a tensor of their own.
    """

    name: str
    tensor_type: int
    shape: tuple[int, ...]
    offset: int
    size: int
    scales: Numbers | None
    quantized_dimension: int
    block: int | None = None

    def __str__(self) -> str:
        kind = _TYPE_NAMES.get(self.tensor_type, f"type {self.tensor_type}")
        each = f"along axis {self.quantized_dimension}" if self.block is None else f"for {self.block} numbers each"
        scales = "" if self.scales is None else f" with {len(self.scales)} scales {each}"
        return f"{kind} of {self.shape} in {self.size} bytes{scales}"

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def columns(self) -> int:
        return prod(self.shape[1:])

    def may_be(self, encoding: Encoding) -> bool:
        """Whether type, size and scales are those of a weight of this shape in `encoding`."""
        return (
            self.tensor_type == encoding.tensor_type
            and self.size == encoding.data_size(self.shape)
            and self.block == encoding.block
            and encoding.fits(self.shape)
            and (0 if self.scales is None else len(self.scales)) == encoding.scale_count(self.shape)
            and (self.scales is None or self.quantized_dimension == encoding.quantized_dimension)
        )

    def scales_of_rows(self, encoding: Encoding, start: int, stop: int) -> Numbers | None:
        """The scales, in the shape of `encoding`, that these rows are decoded with."""
        if self.scales is None or encoding.scale_shape is None:
            return None
        scales = self.scales.reshape(encoding.scale_shape(self.shape))
        return scales[start:stop] if encoding.by_rows else scales


class Constants:
    """The constants of a `.tflite` by name.

    A weight that several signatures share is found by the weight's own name; `signature_inputs` are names by
    signature. Raises InputError when the file cannot be read as TFLite, and CheckFailed when a constant is not
    quantized symmetrically or the file ends within one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Mapped, since only the pages of the flatbuffer itself are touched.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[4:8] != FILE_IDENTIFIER:
                    raise InputError(f"{path} is not a TFLite file", hint="Give a .tflite file.")
                model = root_of(data, len(data))
                self.tensors = {stored.name: stored for stored in _external_tensors(model, data)}
                self.signature_inputs = dict(_signature_inputs(model))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", hint="Give a .tflite file.") from error
        except BROKEN as error:
            raise InputError(f"{path} is damaged: {error}", hint="Convert the model again.") from error

    def read(self, name: str, encodings: Iterable[Encoding] = ENCODINGS) -> torch.Tensor:
        """A constant decoded from the first of these encodings that it may be in, float32 of its shape."""
        if name not in self.tensors:
            raise InputError(f"{self._path} has no constant {name!r}")
        stored = self.tensors[name]
        encoding = next(encoding for encoding in encodings if stored.may_be(encoding))
        return torch.from_numpy(self.numbers(stored, encoding, 0, stored.rows).reshape(stored.shape))

    def numbers(self, stored: Stored, encoding: Encoding, start: int, stop: int) -> Numbers:
        """Rows of a constant decoded, float32 [stop - start, columns]."""
        data = self._data(stored, encoding, start, stop)
        return encoding.decode(data, stored.scales_of_rows(encoding, start, stop))

    def content(self, stored: Stored) -> bytes:
        """A constant as it lies in the file."""
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), stored.size, stored.offset)

    def _data(self, stored: Stored, encoding: Encoding, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows of a constant as they lie in the file, [stop - start, …] of the encoding's dtype."""
        size = encoding.data_size((stop - start, *stored.shape[1:]))
        offset = stored.offset + encoding.data_size((start, *stored.shape[1:]))
        with self._path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise CheckFailed(f"{self._path} ends within constant {stored.name!r}", hint=BUG)
        items: npt.NDArray[Any] = np.frombuffer(data, encoding.dtype)
        return items.reshape(stop - start, stored.columns // encoding.packed)


def _external_tensors(model: Any, data: mmap.mmap) -> Iterator[Stored]:
    """All but the scales of others, which are read with those."""
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        tensors = [subgraph.Tensors(index) for index in range(subgraph.TensorsLength())]
        blocks = {index: blockwise for index, tensor in enumerate(tensors) if (blockwise := _blockwise(tensor))}
        scales = {blockwise.Scales() for blockwise in blocks.values()}
        for index, tensor in enumerate(tensors):
            buffer = model.Buffers(tensor.Buffer())
            if buffer.Size() > 0 and index not in scales:
                stored = _stored(tensor, buffer)
                yield _with_blocks(stored, blocks[index], model, tensors, data) if index in blocks else stored


def _stored(tensor: Any, buffer: Any) -> Stored:
    name = tensor.Name().decode()
    shape = _shape(tensor)
    quantization = tensor.Quantization()
    scales, dimension = None, 0
    if quantization is not None and quantization.ScaleLength() > 0:
        scales, dimension = np.array(quantization.ScaleAsNumpy(), np.float32), quantization.QuantizedDimension()
        if np.any(quantization.ZeroPointAsNumpy()):
            raise CheckFailed(f"constant {name!r} is not quantized symmetrically", hint=BUG)
    return Stored(name, tensor.Type(), shape, buffer.Offset(), buffer.Size(), scales, dimension)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))


def _blockwise(tensor: Any) -> Any:
    """What a tensor says of the blocks that its scales are for; None where it has no such scales."""
    quantization = tensor.Quantization()
    if quantization is None or quantization.DetailsType() != schema.QuantizationDetails.BlockwiseQuantization:
        return None
    blockwise, details = schema.BlockwiseQuantization(), quantization.Details()
    blockwise.Init(details.Bytes, details.Pos)
    return blockwise


def _with_blocks(stored: Stored, blockwise: Any, model: Any, tensors: Sequence[Any], data: mmap.mmap) -> Stored:
    if blockwise.ZeroPoints() >= 0:
        raise CheckFailed(f"constant {stored.name!r} is not quantized symmetrically", hint=BUG)
    scales = tensors[blockwise.Scales()]
    buffer = model.Buffers(scales.Buffer())
    if scales.Type() != schema.TensorType.FLOAT16:
        raise CheckFailed(f"constant {stored.name!r} has scales that are not float16", hint=BUG)
    outside = data[buffer.Offset() : buffer.Offset() + buffer.Size()] if buffer.Size() else buffer.DataAsNumpy()
    numbers = np.frombuffer(bytes(outside), np.float16).astype(np.float32)
    return replace(stored, scales=numbers, block=blockwise.BlockSize())


def _signature_inputs(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for signature in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        inputs = map(signature.Inputs, range(signature.InputsLength()))
        yield signature.SignatureKey().decode(), tuple(entry.Name().decode() for entry in inputs)
