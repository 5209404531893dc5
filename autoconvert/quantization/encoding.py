"""An encoding: how the numbers of one weight are stored in the file, and what they then stand for.

Numbers are seen as float32 [rows, columns], the first axis of the weight and all others; a vector has one column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """Rows as they are stored: `data` [rows, …] in the encoding's dtype; `scales` float32, None where it has none.

    `kept` counts the numbers that were on such a grid before, and are not rounded again.
    """

    data: Stored
    scales: Numbers | None = None
    kept: int = 0


@dataclass(frozen=True)
class Encoding:
    """How one weight is stored; `name` is what reports call it, `tensor_type` the TensorType of its tensors.

    `encode` makes of rows what lies in the file, as `dtype`. What cannot be stored must come out as a scale that is not
    finite, or where there are no scales as a number that is not.

    `decode` gives a new float32 [rows, columns] for what lies in the file. It shares no code with `encode`: the check
    of constants reads with the one what the other has written.

    `tolerance` says how far decoded numbers may lie from their source, given the source's rows and their scales:
    [rows, columns] or [rows, 1], NaN where the scale itself is wrong, so that no distance is right.

    `scale_shape` gives the shape of a weight's scales, and `quantized_dimension` says which axis of the weight they
    follow. With `by_rows` a row's data and scales follow from the row alone, scales have an axis of rows first, and a
    tile is any whole rows; otherwise a tile is the whole weight.

    `packed` is how many numbers one item of `dtype` holds; it divides the columns of every weight.

    `block` is how many numbers of a row share a scale, where a row has several: the columns of a weight are a multiple
    of it, and its scales are a tensor of their own, in float16 [rows, blocks].

    `dequantize_version` is for what no kernel reads as a weight: that version of DEQUANTIZE widens it before its use.
    """

    name: str
    tensor_type: int
    dtype: type[np.generic]
    encode: Callable[[Numbers], Encoded]
    decode: Callable[[Stored, Numbers | None], Numbers]
    tolerance: Callable[[Numbers, Numbers | None], Numbers]
    scale_shape: Callable[[Shape], Shape] | None = None
    quantized_dimension: int = 0
    by_rows: bool = True
    packed: int = 1
    block: int | None = None
    dequantize_version: int | None = None

    @property
    def bits(self) -> int:
        """Of a number."""
        return np.dtype(self.dtype).itemsize * 8 // self.packed

    def fits(self, shape: Shape) -> bool:
        """Whether a weight of this shape can be stored so."""
        return prod(shape[1:]) % (self.block or self.packed) == 0

    def data_size(self, shape: Shape) -> int:
        """Bytes of a weight of this shape, without scales."""
        return prod(shape) // self.packed * np.dtype(self.dtype).itemsize

    def scale_count(self, shape: Shape) -> int:
        """How many scales a weight of this shape has."""
        return 0 if self.scale_shape is None else prod(self.scale_shape(shape))

    def scale_size(self, shape: Shape, signatures: int) -> int:
        """Bytes of the scales of a weight of this shape: float32 in each signature, or float16 once."""
        return self.scale_count(shape) * (signatures * 4 if self.block is None else 2)


def largest_of_rows(rows: Numbers) -> Numbers:
    """The largest magnitude of each row of [rows, columns], NaN where there is one."""
    # Two passes that only read take half the time of one that also writes magnitudes.
    largest: Numbers = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return largest
