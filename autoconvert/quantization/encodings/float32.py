"""float32, as it is: what everything is stored in that no rule stores smaller."""

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType

from autoconvert.quantization.encoding import Encoded, Encoding, Numbers, Stored


def encode(rows: Numbers) -> Encoded:
    return Encoded(rows)


def decode(data: Stored, scales: Numbers | None) -> Numbers:
    return data.astype(np.float32)


def tolerance(rows: Numbers, scales: Numbers | None) -> Numbers:
    """None: the numbers are equal."""
    return np.zeros((len(rows), 1), np.float32)


FLOAT32 = Encoding("float32", TensorType.FLOAT32, np.float32, encode, decode, tolerance)
