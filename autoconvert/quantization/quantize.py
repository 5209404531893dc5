"""How a weight is stored: which number format by scheme and use, and the values in it.

int8 is dynamic-range quantisation as ai-edge-quantizer's `dynamic_wi8_afp32` recipe does it: symmetric, one
scale a row (an output channel of FULLY_CONNECTED, a token of EMBEDDING_LOOKUP), activations in float32. The
values come from ai-edge-quantizer's own tensor-level function, applied to tiles of whole rows: a row's scale
depends on nothing outside the row.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize.naive_min_max_quantize import get_tensor_quant_params

Scheme = Literal["none", "fp16", "int8"]
SCHEMES: tuple[str, ...] = get_args(Scheme)

# An operand that holds a table of rows: [out, in] of FULLY_CONNECTED, [tokens, width] of EMBEDDING_LOOKUP.
ROW_OPERANDS = frozenset({("FULLY_CONNECTED", 1), ("EMBEDDING_LOOKUP", 1)})

# Tiles of one megabyte stay in a core's cache: half again as fast as tiles of sixteen.
_TILE_ELEMENTS = 1 << 18


class Encoding(Enum):
    """A number format of constants in the file."""

    FLOAT32 = ("float32", np.float32, TensorType.FLOAT32)
    FLOAT16 = ("float16", np.float16, TensorType.FLOAT16)
    INT8_ROWS = ("int8", np.int8, TensorType.INT8)

    def __init__(self, label: str, dtype: type[np.generic], tensor_type: int) -> None:
        self.label = label
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.tensor_type = tensor_type


@dataclass(frozen=True)
class Encoded:
    """Rows as they are stored: `data` in the encoding's dtype; `scales` float32 [rows], None unless int8."""

    data: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None = None


class UnrepresentableRow(ValueError):
    """A row that the encoding cannot hold; `row` counts from the start of the tensor that was given."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row} {reason}")
        self.row = row
        self.reason = reason


def encoding_for(scheme: Scheme, uses: Collection[tuple[str, int]], rank: int) -> Encoding:
    """The encoding of a weight with `rank` axes, given as which operand of which operators it is used.

    `uses` are pairs like ("FULLY_CONNECTED", 1). Only tables of rows are stored smaller; a norm's vector, a
    bias or an operand of BATCH_MATMUL stays float32.
    """
    table = rank == 2 and len(uses) > 0 and ROW_OPERANDS.issuperset(uses)
    if not table or scheme == "none":
        return Encoding.FLOAT32
    return Encoding.FLOAT16 if scheme == "fp16" else Encoding.INT8_ROWS


def encode(value: torch.Tensor, encoding: Encoding) -> Encoded:
    """The value as it is stored; float of any dtype, [rows, columns] for int8, any shape otherwise.

    Temporaries are a few megabytes however large the value is. Raises UnrepresentableRow for NaN and
    infinities, and for numbers beyond float16 where that is the encoding.
    """
    data = np.empty(tuple(value.shape), encoding.dtype)
    scales = np.empty(value.shape[0], np.float32) if encoding is Encoding.INT8_ROWS else None
    if value.ndim == 0:
        _encode_tile(value.reshape(1, 1), data.reshape(1, 1), None, encoding, 0)
        return Encoded(data)
    columns = max(1, value[:1].numel())
    step = max(1, _TILE_ELEMENTS // columns)
    for start in range(0, value.shape[0], step):
        rows = slice(start, start + step)
        _encode_tile(value[rows], data[rows], None if scales is None else scales[rows], encoding, start)
    return Encoded(data, scales)


def dequantised(value: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """The float32 numbers that the file holds for `value` when it is stored in `encoding`."""
    encoded = encode(value, encoding)
    numbers = torch.from_numpy(encoded.data).to(torch.float32)
    return numbers if encoded.scales is None else numbers * torch.from_numpy(encoded.scales)[:, None]


_WEIGHT_CONFIG = qtyping.TensorQuantizationConfig(
    num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
)
# EMBEDDING_LOOKUP quantises alike: the same axis, the same range.
_OPERATION = qtyping.OpInfo(
    op=None,
    op_name=qtyping.TFLOperationName.FULLY_CONNECTED,
    subgraph_op_index=0,
    op_quant_config=qtyping.OpQuantizationConfig(
        weight_tensor_config=_WEIGHT_CONFIG, compute_precision=qtyping.ComputePrecision.INTEGER
    ),
)


def _encode_tile(
    value: torch.Tensor,
    data: npt.NDArray[Any],
    scales: npt.NDArray[np.float32] | None,
    encoding: Encoding,
    first_row: int,
) -> None:
    tile = value.detach().to(torch.float32).contiguous().numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        if scales is None:
            data[...] = tile
            representable = np.isfinite(data).reshape(len(data), -1).all(axis=1)
        else:
            parameters = get_tensor_quant_params(_OPERATION, _WEIGHT_CONFIG, tile)
            data[...] = parameters.quantized_data
            scales[...] = parameters.scale.reshape(-1)
            # A NaN or an infinity anywhere in a row is in the row's largest magnitude.
            representable = np.isfinite(scales)
    if not representable.all():
        row = int(np.argmin(representable))
        finite = bool(np.isfinite(tile[row]).all())
        reason = f"has numbers beyond {encoding.label}" if finite else "has NaN or infinite numbers"
        raise UnrepresentableRow(first_row + row, reason)
