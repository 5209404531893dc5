"""int8 with a scale a row: dynamic-range quantization, whose kernels take float32 activations.

Numbers are those of ai-edge-quantizer's `dynamic_wi8_afp32`: symmetric, one scale a row (an output channel of
FULLY_CONNECTED, a token of EMBEDDING_LOOKUP). They come from its own tensor-level function, applied to tiles of whole
rows: a row's scale depends on nothing outside the row.
"""

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize.naive_min_max_quantize import get_tensor_quant_params

from autoconvert.quantization.encoding import Encoded, Encoding, Numbers, Shape, Stored, largest_of_rows

_WEIGHT_CONFIG = qtyping.TensorQuantizationConfig(
    num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
)
# EMBEDDING_LOOKUP quantizes alike: the same axis, the same range.
_OPERATION = qtyping.OpInfo(
    op=None,
    op_name=qtyping.TFLOperationName.FULLY_CONNECTED,
    subgraph_op_index=0,
    op_quant_config=qtyping.OpQuantizationConfig(
        weight_tensor_config=_WEIGHT_CONFIG, compute_precision=qtyping.ComputePrecision.INTEGER
    ),
)
# Scale, quotient and product are rounded to float32, each by less than 127 * 2**-24 of a step.
_HALF_STEP = 0.5 + 5e-5
# A row of zeros has some step too; the quantizer takes the one of this largest number.
_SMALLEST_BOUND = 1e-9


def encode(rows: Numbers) -> Encoded:
    """A NaN or an infinity anywhere in a row is in the row's largest magnitude, and so in its scale."""
    parameters = get_tensor_quant_params(_OPERATION, _WEIGHT_CONFIG, rows)
    return Encoded(parameters.quantized_data, parameters.scale.reshape(-1))


def decode(data: Stored, scales: Numbers | None) -> Numbers:
    assert scales is not None
    numbers: Numbers = data.astype(np.float32)
    numbers *= scales[:, None]
    return numbers


def tolerance(rows: Numbers, scales: Numbers | None) -> Numbers:
    """Half a step, where the step is as fine as the row's largest number allows."""
    assert scales is not None
    coarsest = np.maximum(largest_of_rows(rows), _SMALLEST_BOUND) / 127 * (1 + 1e-6)
    allowed: Numbers = np.where((scales > 0) & (scales <= coarsest), scales * np.float32(_HALF_STEP), np.nan)
    return allowed[:, None]


def _scale_a_row(shape: Shape) -> Shape:
    return shape[:1]


INT8_ROWS = Encoding("int8", TensorType.INT8, np.int8, encode, decode, tolerance, scale_shape=_scale_a_row)
