"""compressed-tensors, as llm-compressor writes it: several formats, of which each weight has one.

Its compressors (`compressed_tensors/compressors`) write for X.weight, with `out` outputs and in inputs:

    pack-quantized   X.weight_packed      int32 [out, in · b / 32], signed integers of b bits plus 2^(b − 1), packed
                                          along the inputs from the lowest bit on
                     X.weight_zero_point  int32 [out · b / 32, groups], packed likewise along the outputs
                     X.weight_shape       [out, in]
                     X.weight_g_idx       int32 [in], the group of each input where weights were ordered by activation
    int-quantized,   X.weight             int8 or float8 [out, in]
    float-quantized, X.weight_zero_point  like X.weight_scale
    naive-quantized
    mxfp4-, nvfp4-   X.weight_packed      uint8 [out, in / 2], E2M1, the low half of a byte first
    pack-quantized   X.weight_global_scale  for nvfp4: scales are divided by it
    dense            X.weight             as floats, which are rounded to their integers each time that they are used

each with X.weight_scale: one, or [out, 1], [out, groups], or one for each block of block_structure.
weight = (integer − zero point) · scale.
"""

import math
from dataclasses import dataclass

import torch

from autoconvert.errors import InputError
from autoconvert.source.quantized.bits import unpack, unpack_columns
from autoconvert.source.quantized.blocks import Block, BlockScaled, block_of, described, exponents, spread
from autoconvert.source.quantized.compression_scheme import Scheme, require_supported, scheme_of
from autoconvert.source.quantized.decoding import Decoding, Parts, companion, require_dtype, require_shape, wrong_shape
from autoconvert.source.quantized.e2m1 import unpack_e2m1
from autoconvert.source.quantized.fp8 import FLOAT8, SCALES
from autoconvert.source.quantized.settings import Quantization
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights

_PACKED_BITS = (2, 4, 8)


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights that are packed or have scales. Raises InputError where their parts do not fit together."""
    require_supported(quantization)
    decodings = {}
    for name in stored.names():
        stem, _, leaf = name.rpartition(".")
        if leaf == "weight_packed":
            decodings[f"{stem}.weight"] = _packed(stored, stem, scheme_of(quantization, stem))
        elif leaf == "weight_scale" and f"{stem}.weight_packed" not in stored.names():
            decodings[f"{stem}.weight"] = _unpacked(stored, stem, quantization)
    for name in stored.names():
        if name.endswith(".weight") and name not in decodings and stored.dtype(name) in (torch.int8, *FLOAT8):
            companion(stored, name, f"{name}_scale")
    return decodings


def _packed(stored: StoredWeights, stem: str, scheme: Scheme) -> Decoding:
    weight = f"{stem}.weight"
    parts = {"packed": f"{weight}_packed", "scale": companion(stored, weight, f"{weight}_scale")}
    if len(shape := stored.shape(parts["packed"])) != 2:
        raise wrong_shape(parts["packed"], shape, "a matrix")
    if f"{weight}_shape" in stored.names():
        parts["shape"] = f"{weight}_shape"
        require_shape(stored, parts["shape"], (2,))
    require_dtype(stored, parts["packed"], torch.int32, torch.uint8)
    require_dtype(stored, parts["scale"], *SCALES, torch.float8_e4m3fn)
    if stored.dtype(parts["packed"]) == torch.uint8:
        return _four_bit_floats(stored, weight, parts, (shape[0], 2 * shape[1]), scheme)
    if scheme.bits not in _PACKED_BITS:
        raise InputError(
            f"{parts['packed']}: numbers of {scheme.bits} bits packed by compressed-tensors are not supported yet",
            hint="pass a checkpoint of 4 or 8 bits, or the original one",
        )
    outputs, inputs = shape[0], shape[1] * 32 // scheme.bits
    grid = stored.shape(parts["scale"])
    if (block := _groups((outputs, inputs), grid, scheme)) is None:
        expected = f"a scale for each group of {scheme.group_size or inputs} of {[outputs, inputs]}"
        raise wrong_shape(parts["scale"], grid, expected)
    if f"{weight}_g_idx" in stored.names():
        parts["g_idx"] = f"{weight}_g_idx"
        require_shape(stored, parts["g_idx"], (inputs,))
        require_dtype(stored, parts["g_idx"], torch.int32, torch.int64)
    if not scheme.symmetric:
        parts["zero_point"] = companion(stored, weight, f"{weight}_zero_point")
        if stored.dtype(parts["zero_point"]) == torch.int32:
            require_shape(stored, parts["zero_point"], (-(-outputs * scheme.bits // 32), (grid or (1,))[-1]))
        else:
            require_shape(stored, parts["zero_point"], tuple(grid))
    kind = f"compressed-tensors, {scheme.bits} bits {described((outputs, inputs), block)}"
    rows = Integers((outputs, inputs), block, scheme.bits).rows
    return Decoding(parts, (outputs, inputs), rows, kind, scheme.rounds_activations)


def _groups(shape: tuple[int, int], grid: tuple[int, ...], scheme: Scheme) -> Block | None:
    """The blocks of a packed weight: all of it, its rows, or the groups that the scheme names."""
    block = block_of(shape, grid)
    if block is None or math.prod(grid) == 1:
        return block
    return block if block[0] == 1 and block[1] in (scheme.group_size or shape[1], shape[1]) else None


@dataclass(frozen=True)
class Integers:
    """Decodes rows of a packed weight."""

    shape: tuple[int, int]
    block: Block
    bits: int

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        _require_stored_shape(parts, self.shape)
        values = unpack(parts.rows("packed", start, stop), self.bits).float() - (1 << (self.bits - 1))
        scales = self._of_groups(parts, "scale", start, stop)
        group = self._group(parts, scales.shape[1])
        if "zero_point" in parts:
            values = values - self._zeros(parts, start, stop)[:, group]
        return values * scales[:, group]

    def _zeros(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        """Zero points [rows, groups]; packed ones are stored with the offset of the weight's integers."""
        if parts.dtype("zero_point") != torch.int32:
            return self._of_groups(parts, "zero_point", start, stop)
        packed = unpack_columns(parts.whole("zero_point").T, self.bits, start, stop)
        return packed.T.float() - (1 << (self.bits - 1))

    def _of_groups(self, parts: Parts, part: str, start: int, stop: int) -> torch.Tensor:
        """Numbers [rows, groups], or [1, 1] where there is one for the weight."""
        if self.block == self.shape:
            return parts.whole(part).float().reshape(1, 1)
        return parts.rows(part, start, stop).float().reshape(stop - start, -1)

    def _group(self, parts: Parts, groups: int) -> torch.Tensor:
        """The group of each input, as the library finds it: by order where weights are ordered by activation."""
        inputs = self.shape[1]
        neighbours = torch.arange(inputs) * groups // inputs
        if "g_idx" not in parts:
            return neighbours
        given = parts.whole("g_idx").long()
        if bool((given == -1).any()):
            return neighbours
        if int(given.min()) < 0 or not torch.equal(given.sort().values, neighbours):
            raise InputError(
                f"{parts.name('g_idx')}: its groups are not all of the same size",
                hint="download or save the checkpoint again",
            )
        return given


def _four_bit_floats(
    stored: StoredWeights, weight: str, parts: dict[str, str], shape: tuple[int, int], scheme: Scheme
) -> Decoding:
    grid = stored.shape(parts["scale"])
    block = block_of(shape, grid)
    if block is None or block[0] != 1:
        raise wrong_shape(parts["scale"], grid, f"a scale for each group of a row of {list(shape)}")
    if f"{weight}_global_scale" in stored.names():
        parts["global_scale"] = f"{weight}_global_scale"
        require_shape(stored, parts["global_scale"], (1,), ())
    elif stored.dtype(parts["scale"]) not in (torch.uint8, torch.float8_e8m0fnu):
        companion(stored, weight, f"{weight}_global_scale")
    name = "NVFP4" if "global_scale" in parts else "MXFP4"
    kind = f"compressed-tensors, {name} {described(shape, block)}"
    return Decoding(parts, shape, FourBitFloats(shape, block).rows, kind, scheme.rounds_activations)


@dataclass(frozen=True)
class FourBitFloats:
    """Decodes rows of a weight of E2M1 numbers."""

    shape: tuple[int, int]
    block: Block

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        _require_stored_shape(parts, self.shape)
        scales = exponents(spread(parts, "scale", self.shape, self.block, start, stop))
        if "global_scale" in parts:
            scales = scales / parts.whole("global_scale").float()
        return unpack_e2m1(parts.rows("packed", start, stop)) * scales


def _unpacked(stored: StoredWeights, stem: str, quantization: Quantization) -> Decoding:
    scheme = scheme_of(quantization, stem)
    weight = f"{stem}.weight"
    parts = {"weight": companion(stored, weight, weight), "scale": f"{weight}_scale"}
    require_dtype(stored, weight, torch.int8, *FLOAT8, *FLOAT_DTYPES)
    require_dtype(stored, parts["scale"], *SCALES)
    shape, grid = tuple(stored.shape(weight)), stored.shape(parts["scale"])
    if not shape or (block := block_of(shape, grid, scheme.block)) is None:
        raise wrong_shape(parts["scale"], grid, f"a scale for each block of {weight}, of shape {list(shape)},")
    if not scheme.symmetric:
        parts["zero_point"] = companion(stored, weight, f"{weight}_zero_point")
        require_shape(stored, parts["zero_point"], tuple(grid))
    dtype = stored.dtype(weight)
    number = f"FP{scheme.bits}" if dtype in FLOAT8 or scheme.is_float else f"{scheme.bits} bits"
    kind = f"compressed-tensors, {number} {described(shape, block)}"
    if dtype not in FLOAT_DTYPES:
        return Decoding(parts, shape, BlockScaled(shape, block).rows, kind, scheme.rounds_activations)
    if (status := quantization.text("quantization_status")) not in ("frozen", "compressed"):
        raise quantization.unsupported(f"quantization_status {status}: its scales are not final")
    return Decoding(parts, shape, Rounded(shape, block, scheme).rows, kind, scheme.rounds_activations)


@dataclass(frozen=True)
class Rounded:
    """Decodes rows of a weight of floats, which are rounded to what the scheme can represent."""

    shape: tuple[int, ...]
    block: Block
    scheme: Scheme

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        scales = exponents(spread(parts, "scale", self.shape, self.block, start, stop))
        values = parts.rows("weight", start, stop).float() / scales
        if self.scheme.is_float:
            largest = torch.finfo(torch.float8_e4m3fn).max
            return values.clamp(-largest, largest).to(torch.float8_e4m3fn).float() * scales
        half = 1 << (self.scheme.bits - 1)
        if "zero_point" not in parts:
            return values.round().clamp(-half, half - 1) * scales
        zeros = spread(parts, "zero_point", self.shape, self.block, start, stop).float()
        return ((values + zeros).round().clamp(-half, half - 1) - zeros) * scales


def _require_stored_shape(parts: Parts, shape: tuple[int, int]) -> None:
    """The shape in the data is that of the header: no word is filled up."""
    if "shape" in parts and (stored := tuple(parts.whole("shape").tolist())) != shape:
        raise InputError(
            f"{parts.name('shape')}: says {list(stored)}, where {parts.name('packed')} holds {list(shape)}",
            hint="check that config.json belongs to this checkpoint",
        )
