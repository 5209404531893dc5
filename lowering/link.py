"""The linker: weightless graphs and a checkpoint become one `.tflite`, a tile of a tensor at a time.

A graph arrives with every weight as an input. The linker merges the graphs, makes each of those inputs a
constant whose data lies after the flatbuffer, so that nothing is limited to 2 GB, and streams the data there:
read, evaluated, quantized, written. The layout follows from the shapes alone; the flatbuffer, with the scales
that quantizing found, is written last, at the front.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from autoconvert.ir.weight import Weight
from autoconvert.lowering import flatbuffer
from autoconvert.lowering.constants import Constant, ZeroPoints, make_constants, reserve_scales
from autoconvert.lowering.external_buffers import externalise_graph_constants, lay_out
from autoconvert.lowering.provenance import name_operations
from autoconvert.lowering.tiles import TensorStore, check_shapes, encoded_tiles
from autoconvert.quantization.recipe import Recipe
from autoconvert.system.streamed_file import StreamedFile

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LinkedTensor:
    """A constant of the file: the weights that share it, and where and how its `size` bytes are stored.

    `uses` are operators with the operand's number, such as `FULLY_CONNECTED:1`; they decide the `dtype`. `kept` numbers
    lay on a grid before, and are not rounded again.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    uses: tuple[str, ...]
    offset: int
    size: int
    kept: int = 0


@dataclass(frozen=True)
class LinkedSignature:
    """What is left of a signature when its weights are constants: names in the file's order."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Linked:
    """The file that was written; sizes in bytes. `unused` are weights that no signature needs."""

    path: Path
    size: int
    flatbuffer_size: int
    tensors: tuple[LinkedTensor, ...]
    signatures: tuple[LinkedSignature, ...]
    unused: tuple[str, ...]

    @property
    def kept(self) -> float:
        """The share of all numbers that are stored smaller, and were not rounded for it: a checkpoint had them so."""
        smaller = [tensor for tensor in self.tensors if tensor.size < 4 * prod(tensor.shape)]
        return sum(tensor.kept for tensor in smaller) / max(1, sum(prod(tensor.shape) for tensor in smaller))

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """Bytes of weights by the dtype they are stored in, scales not counted."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.dtype] += tensor.size
        return dict(sizes)


def link(
    graphs: Sequence[bytes],
    weights: Mapping[str, Weight],
    store: TensorStore,
    recipe: Recipe,
    path: Path,
    *,
    progress: Progress = lambda done, total: None,
) -> Linked:
    """Write `path` from weightless flatbuffers and the weights that their inputs name.

    `progress` is called with the bytes written and the bytes of the file. The same arguments give the same
    bytes. Peak memory is a few tiles, or the largest weight that has a program. Raises InputError for a
    checkpoint that does not fit or is not finite, MachineError when the disk is full or refuses; whatever
    happens, `path` is either the whole new file or what it was.
    """
    model = flatbuffer.merge([flatbuffer.read_model(graph) for graph in graphs])
    constants = make_constants(model, weights, recipe)
    name_operations(model, weights)
    check_shapes(constants, store)
    zero_points = ZeroPoints()
    scales = {id(constant): reserve_scales(model, constant, zero_points) for constant in constants}
    # Scales of blocks too, which are filled in until the tables are written.
    tables = externalise_graph_constants(model)
    external = [(constant.buffer, constant.size) for constant in constants]
    layout = lay_out(model, external + [(buffer, data.nbytes) for buffer, data in tables])

    kept: Counter[int] = Counter()
    with StreamedFile(path, layout.file_size) as file, closing(encoded_tiles(constants, store)) as tiles:
        for tile in tiles:
            data = tile.encoded.data
            row_size = data.nbytes // max(1, len(data))
            offset = tile.constant.buffer.offset + tile.first_row * row_size
            file.write_at(offset, data.reshape(-1).view(np.uint8).data)
            if (filled := scales[id(tile.constant)]) is not None and tile.encoded.scales is not None:
                filled[tile.first_row : tile.first_row + len(tile.encoded.scales)] = tile.encoded.scales
            kept[id(tile.constant)] += tile.encoded.kept
            progress(offset + data.nbytes, layout.file_size)
        for buffer, table in tables:
            file.write_at(buffer.offset, table.data)
        file.write_at(0, flatbuffer.write_model(model))
        progress(layout.file_size, layout.file_size)
    return _linked(path, layout.file_size, layout.flatbuffer_size, model, constants, weights, kept)


def _linked(
    path: Path,
    size: int,
    flatbuffer_size: int,
    model: Any,
    constants: Sequence[Constant],
    weights: Mapping[str, Weight],
    kept: Mapping[int, int],
) -> Linked:
    tensors = tuple(
        LinkedTensor(
            names=tuple(weight.name for weight in constant.weights),
            sources=constant.weight.sources,
            shape=tuple(constant.weight.shape),
            dtype=constant.encoding.name,
            uses=tuple(f"{operator}:{operand}" for operator, operand in sorted(constant.uses)),
            offset=constant.buffer.offset,
            size=constant.size,
            kept=kept.get(id(constant), 0),
        )
        for constant in constants
    )
    signatures = tuple(
        LinkedSignature(
            signature.signatureKey.decode(),
            tuple(entry.name.decode() for entry in signature.inputs),
            tuple(entry.name.decode() for entry in signature.outputs),
        )
        for signature in model.signatureDefs
    )
    stored = {name for tensor in tensors for name in tensor.names}
    unused = tuple(name for name in weights if name not in stored)
    return Linked(path, size, flatbuffer_size, tensors, signatures, unused)
