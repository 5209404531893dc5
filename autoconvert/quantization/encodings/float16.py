"""float16, the nearest to each number; no kernel reads it as a weight, so DEQUANTIZE widens it."""

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from autoconvert.quantization.encoding import Encoded, Encoding, Numbers, Stored

_DEQUANTIZE_FLOAT16 = 3


def encode(rows: Numbers) -> Encoded:
    return Encoded(rows.astype(np.float16))


def decode(data: Stored, scales: Numbers | None) -> Numbers:
    return data.astype(np.float32)


def tolerance(rows: Numbers, scales: Numbers | None) -> Numbers:
    """Half the distance of neighbouring float16 numbers at each number; ten bits after the leading one."""
    _, exponent = np.frexp(np.abs(rows))
    half: Numbers = np.ldexp(np.float32(1), np.maximum(exponent - 1, -14) - 11)
    return half


FLOAT16 = Encoding(
    "float16", TensorType.FLOAT16, np.float16, encode, decode, tolerance, dequantize_version=_DEQUANTIZE_FLOAT16
)
