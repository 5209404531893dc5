"""Where data lies after the flatbuffer: `Buffer.offset` and `Buffer.size` of the TFLite schema.

Offsets count from the start of the flatbuffer. The runtime reads them so in a `.tflite` and in a section of a
`.litertlm`, beyond 4 GB too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoconvert.lowering import flatbuffer

# What XNNPACK and a cache line ask of a constant that is used where it lies in the mapped file.
ALIGNMENT = 64
_SMALLEST_EXTERNAL = 1024


@dataclass(frozen=True)
class Layout:
    """Bytes that the flatbuffer takes, and that the whole file takes."""

    flatbuffer_size: int
    file_size: int


def externalise_graph_constants(model: Any) -> list[tuple[Any, npt.NDArray[np.uint8]]]:
    """Take the larger constants that the lowering made itself, such as tables, out of the flatbuffer.

    Returns their `BufferT` with the data. Metadata stays inside, where every reader looks for it.
    """
    metadata = {entry.buffer for entry in model.metadata or []}
    external = []
    for index, buffer in enumerate(model.buffers):
        if buffer.data is None or len(buffer.data) < _SMALLEST_EXTERNAL or index in metadata:
            continue
        external.append((buffer, np.asarray(buffer.data, np.uint8)))
        buffer.data, buffer.offset, buffer.size = None, 1, 1
    return external


def lay_out(model: Any, external: Sequence[tuple[Any, int]]) -> Layout:
    """Set offset and size of the external buffers, given with their size in bytes, in that order."""
    flatbuffer_size = len(flatbuffer.write_model(model))
    end = flatbuffer_size
    for buffer, size in external:
        buffer.offset = _aligned(end)
        buffer.size = size
        end = buffer.offset + size
    return Layout(flatbuffer_size, end)


def _aligned(offset: int) -> int:
    return (offset + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
