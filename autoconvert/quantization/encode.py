"""A value is stored in an encoding, a few numbers at a time."""

from math import prod

import numpy as np
import torch

from autoconvert.quantization.encoding import Encoded, Encoding, Numbers

# Tiles of one megabyte stay in a core's cache: half again as fast as tiles of sixteen.
_TILE_ELEMENTS = 1 << 18


class UnrepresentableRow(ValueError):
    """A row that the encoding cannot hold; `row` counts from the start of the tensor that was given."""

    def __init__(self, row: int, reason: str, hint: str) -> None:
        super().__init__(f"row {row} {reason}")
        self.row = row
        self.reason = reason
        self.hint = hint


def encode(value: torch.Tensor, encoding: Encoding) -> Encoded:
    """The value, float of any dtype and shape, as it is stored.

    Temporaries are a few megabytes however large the value is, unless the encoding looks at the whole. Raises
    UnrepresentableRow for NaN and infinities, and for numbers beyond what the encoding can hold.
    """
    shape = tuple(value.shape)
    rows, columns = (shape[0], prod(shape[1:])) if shape else (1, 1)
    step = max(1, _TILE_ELEMENTS // max(1, columns)) if encoding.by_rows else max(1, rows)
    data = np.empty((rows, columns // encoding.packed), encoding.dtype)
    scales = None if encoding.scale_shape is None else np.empty(encoding.scale_shape(shape), np.float32)
    kept = 0
    for start in range(0, rows, step):
        part = value[start : start + step] if shape else value.reshape(1)
        numbers = part.detach().to(torch.float32).reshape(len(part), columns).contiguous().numpy()
        tile = _encode_tile(numbers, encoding, start)
        data[start : start + step] = tile.data
        kept += tile.kept
        if scales is not None:
            scales[start : start + step] = tile.scales
    return Encoded(data, scales, kept)


def _encode_tile(rows: Numbers, encoding: Encoding, first_row: int) -> Encoded:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        encoded = encoding.encode(rows)
    if np.isfinite(encoded.data if encoded.scales is None else encoded.scales).all():
        return encoded
    finite = np.isfinite(rows).all(axis=1)
    if finite.all():
        row = int(np.argmin(np.isfinite(encoded.data).all(axis=1)))
        reason, hint = f"has numbers beyond {encoding.name}", "Choose another quantization, such as int8 or none."
    else:
        row = int(np.argmin(finite))
        reason = "has NaN or infinite numbers"
        hint = "The checkpoint may be damaged: compare its checksums, or download it again."
    raise UnrepresentableRow(first_row + row, reason, hint)
