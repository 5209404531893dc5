"""AWQ: integers of 4 bits with a scale and a zero point for each group of inputs, packed for its matrix product.

The layout is AutoAWQ's "gemm" (`awq/modules/linear/gemm.py`, `awq/utils/packing_utils.py`). With out
outputs and in inputs:

    qweight [in, out / 8]      int32, packed along the outputs
    qzeros  [groups, out / 8]  int32, packed likewise
    scales  [groups, out]      float16

The eight outputs of a word lie in its nibbles, from the lowest on, in the order 0, 2, 4, 6, 1, 3, 5, 7.
weight[o, i] = scales[g, o] · (q[i, o] − z[g, o]) with g the group of i, which are neighbours.
"""

from dataclasses import dataclass

import torch

from autoconvert.errors import InputError
from autoconvert.source.quantized.bits import unpack
from autoconvert.source.quantized.decoding import Decoding, Parts, companion, require_dtype, require_shape, wrong_shape
from autoconvert.source.quantized.settings import ORIGINAL, Quantization
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights

# The nibble in which each output of a word lies.
_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights whose parts are stored. Raises InputError where their parts do not fit together."""
    layout = quantization.text("version") or quantization.text("format") or "gemm"
    if layout != "gemm" or quantization.text("backend") == "llm-awq":
        raise quantization.unsupported(f"the layout {layout if layout != 'gemm' else 'llm-awq'}")
    if (bits := quantization.integer("bits") or 4) != 4:
        raise quantization.unsupported(f"{bits} bits")
    for name in stored.names():
        stem = name.removesuffix(".scales")
        if stem != name and not any(f"{stem}.{part}" in stored.names() for part in ("qweight", "qzeros")):
            raise InputError(
                f"{name}: AWQ divides the values of an activation by it, which the module does not",
                hint=ORIGINAL,
            )
    stems = dict.fromkeys(name.rpartition(".")[0] for name in stored.names() if name.endswith((".qweight", ".qzeros")))
    return {f"{stem}.weight": _decoding(stored, stem, quantization) for stem in stems}


def _decoding(stored: StoredWeights, stem: str, quantization: Quantization) -> Decoding:
    weight = f"{stem}.weight"
    parts = {part: companion(stored, weight, f"{stem}.{part}") for part in ("qweight", "qzeros", "scales")}
    for part in ("qweight", "qzeros"):
        require_dtype(stored, parts[part], torch.int32)
    require_dtype(stored, parts["scales"], *FLOAT_DTYPES)
    if len(shape := stored.shape(parts["qweight"])) != 2 or 0 in shape:
        raise wrong_shape(parts["qweight"], shape, "a matrix")
    inputs, words = shape
    asked = quantization.integer("group_size") or -1
    group_size = asked if asked > 0 else inputs
    groups = -(-inputs // group_size)
    require_shape(stored, parts["qzeros"], (groups, words))
    require_shape(stored, parts["scales"], (groups, 8 * words))
    return Decoding(
        parts, (8 * words, inputs), Groups(inputs, group_size).rows, f"AWQ, 4 bits in groups of {group_size}"
    )


@dataclass(frozen=True)
class Groups:
    """Decodes rows of a weight."""

    inputs: int
    group_size: int

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        group = torch.arange(self.inputs) // self.group_size
        values = _unpack(parts.whole("qweight"), start, stop).T.float()
        zeros = _unpack(parts.whole("qzeros"), start, stop).T.float()
        scales = parts.whole("scales")[:, start:stop].T.float()
        return (values - zeros[:, group]) * scales[:, group]


def _unpack(words: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Columns `start:stop` of the numbers that `words` [rows, columns / 8] hold."""
    first, last = start // 8, -(-stop // 8)
    nibbles = unpack(words[:, first:last], 4)
    columns = nibbles.reshape(len(words), -1, 8)[..., list(_NIBBLE)].reshape(len(words), -1)
    return columns[:, start - 8 * first : stop - 8 * first]
