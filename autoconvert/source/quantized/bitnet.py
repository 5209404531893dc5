"""BitNet: weights of −1, 0 and 1 with one scale each, four to a byte.

transformers' `integrations/bitnet.py` packs and unpacks them. For `out` outputs:

    X.weight       uint8 [out / 4, in]: output i · out / 4 + r lies in bits 2 i and 2 i + 1 of row r, plus one
    X.weight_scale [1]

Its `AutoBitLinear` multiplies by the scale; its `BitLinear`, the default, divides by it. Both also round activations to
8 bits when they run, which the decoded weight says nothing of.
"""

from dataclasses import dataclass

import torch

from autoconvert.source.quantized.decoding import Decoding, Parts, companion, require_dtype, require_shape, wrong_shape
from autoconvert.source.quantized.settings import Quantization
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights

_PER_BYTE = 4


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights that have a scale. Raises InputError where their parts do not fit together."""
    linear = quantization.text("linear_class") or "bitlinear"
    if linear not in ("bitlinear", "autobitlinear"):
        raise quantization.unsupported(f"linear_class {linear}")
    if (mode := quantization.text("quantization_mode") or "offline") != "offline":
        raise quantization.unsupported(f"quantization_mode {mode}: its weights are rounded each time that it runs")
    if quantization.fields.get("use_rms_norm"):
        raise quantization.unsupported("use_rms_norm: its linear layers have a norm that the module has not")
    decodings = {}
    for name in stored.names():
        if not name.endswith(".weight"):
            continue
        if f"{name}_scale" in stored.names() or stored.dtype(name) == torch.uint8:
            decodings[name] = _decoding(stored, name, linear == "bitlinear")
    return decodings


def _decoding(stored: StoredWeights, weight: str, divides: bool) -> Decoding:
    parts = {"weight": weight, "scale": companion(stored, weight, f"{weight}_scale")}
    require_dtype(stored, weight, torch.uint8, *FLOAT_DTYPES)
    require_dtype(stored, parts["scale"], *FLOAT_DTYPES)
    require_shape(stored, parts["scale"], (1,), ())
    if len(shape := tuple(stored.shape(weight))) != 2:
        raise wrong_shape(weight, shape, "a matrix")
    if stored.dtype(weight) != torch.uint8:
        return Decoding(parts, shape, Ternary(0, divides).rows, "BitNet", rounds_activations=True)
    unpacked = (_PER_BYTE * shape[0], shape[1])
    return Decoding(parts, unpacked, Ternary(shape[0], divides).rows, "BitNet, 2 bits", rounds_activations=True)


@dataclass(frozen=True)
class Ternary:
    """Decodes rows of a weight: `packed` rows of bytes, or none where the numbers are stored as they are."""

    packed: int
    divides: bool

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        scale = parts.whole("scale").float().reshape(())
        values = self._unpacked(parts, start, stop) if self.packed else parts.rows("weight", start, stop).float()
        return values * (1 / scale if self.divides else scale)

    def _unpacked(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        """Rows `start:stop` of −1, 0 and 1; a run of `packed` rows has the same bits of every byte."""
        runs = []
        for run in range(start // self.packed, -(-stop // self.packed)):
            first = run * self.packed
            data = parts.rows("weight", max(start - first, 0), min(stop - first, self.packed))
            runs.append(((data >> 2 * run) & 3).float() - 1)
        return torch.cat(runs)
