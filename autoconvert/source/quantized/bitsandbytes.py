"""bitsandbytes: 4-bit codes of a table with a scale for each block of the flattened weight, or 8-bit rows with a scale.

Its `QuantState.as_dict` (`bitsandbytes/functional.py`) writes for a weight X.weight of 4 bits (nf4 or fp4):

    X.weight            [n / 2, 1] bytes, two codes each, the high half first; possibly as a wider dtype (quant_storage)
    X.weight.quant_map  float32 [16], the number of each code
    X.weight.absmax     float32 [blocks], the scale of each block; or uint8 where scales are quantized too:
    X.weight.nested_quant_map  float32 [256], and
    X.weight.nested_absmax     float32, one for each block of scales, to which nested_offset is added
    X.weight.quant_state.bitsandbytes__nf4  uint8, JSON with shape, blocksize, nested_blocksize, nested_offset

and `Linear8bitLt` for one of 8 bits:

    X.weight        int8 [out, in]
    X.SCB           float32 [out], the largest magnitude of each row, which is 127
    X.weight_format uint8, 0 where rows are stored one after the other

A weight of 8 bits is integer × (SCB / 127), where bitsandbytes rounds (integer × SCB) / 127: these differ by a
last bit.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autoconvert.errors import InputError
from autoconvert.source.header_weights import HeaderWeights
from autoconvert.source.quantized.decoding import Decoding, Parts, companion, require_dtype, require_shape, wrong_shape
from autoconvert.source.weights import StoredWeights

_AGAIN = "download or save the checkpoint again"
_STATE = ".quant_state.bitsandbytes__"
_ABSMAX = ".absmax"
_KINDS = ("nf4", "fp4")
_BLOCK_SIZES = tuple(1 << bits for bits in range(5, 13))
_SCALES = ".SCB"
Shapes = Mapping[str, tuple[int, ...]]


def is_here(stored: StoredWeights) -> bool:
    """Whether tensors that only bitsandbytes writes are stored."""
    names = stored.names()
    return any(_STATE in name or (name.endswith(_SCALES) and f"{_stem(name)}.weight" in names) for name in names)


def find(stored: StoredWeights, shapes: Shapes) -> dict[str, Decoding]:
    """The weights of 4 and of 8 bits. Raises InputError where their parts do not fit together.

    `shapes` are the module's: where only headers are known, nothing else tells the shape of a weight of 4 bits.
    """
    decodings = {}
    for name in stored.names():
        if _STATE in name:
            weight = name.partition(_STATE)[0]
            decodings[weight] = _four_bits(stored, weight, name, shapes)
        elif name.endswith(_SCALES):
            decodings[f"{_stem(name)}.weight"] = _eight_bits(stored, _stem(name))
        elif name.endswith(_ABSMAX):
            weight = name.removesuffix(_ABSMAX)
            if not any(f"{weight}{_STATE}{kind}" in stored.names() for kind in _KINDS):
                companion(stored, weight, f"{weight}{_STATE}{_KINDS[0]}")
    return decodings


def _four_bits(stored: StoredWeights, weight: str, state_name: str, shapes: Shapes) -> Decoding:
    kind = state_name.partition(_STATE)[2]
    if kind not in _KINDS:
        raise InputError(f"{state_name}: codes of type {kind} are not supported yet", hint=_AGAIN)
    parts = {"weight": companion(stored, weight, weight), "state": state_name}
    parts |= {part: companion(stored, weight, f"{weight}.{part}") for part in ("absmax", "quant_map")}
    require_shape(stored, parts["quant_map"], (16,))
    is_nested = stored.dtype(parts["absmax"]) == torch.uint8
    if is_nested:
        parts |= {part: companion(stored, weight, f"{weight}.{part}") for part in ("nested_absmax", "nested_quant_map")}
        require_shape(stored, parts["nested_quant_map"], (256,))
    else:
        require_dtype(stored, parts["absmax"], torch.float32)
    state = _planned(stored, parts, shapes) if isinstance(stored, HeaderWeights) else _state(stored, state_name)
    # The last byte may hold one number alone, and a wider dtype is filled up.
    if not 0 <= _numbers(stored, weight) - math.prod(state.shape) < 2 * 8:
        raise wrong_shape(weight, stored.shape(weight), f"bytes for {list(state.shape)}")
    blocks = math.prod(stored.shape(parts["absmax"]))
    require_shape(stored, parts["absmax"], (-(-math.prod(state.shape) // state.blocksize),))
    if is_nested:
        require_shape(stored, parts["nested_absmax"], (-(-blocks // state.nested_blocksize),))
    return Decoding(parts, state.shape, state.rows, f"bitsandbytes, {kind} in blocks of {state.blocksize}")


@dataclass(frozen=True)
class Codes:
    """Decodes rows of a weight of 4-bit codes, as its quant_state says."""

    shape: tuple[int, ...]
    blocksize: int
    nested_blocksize: int
    nested_offset: float

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        width = math.prod(self.shape[1:])
        begin, end = start * width, stop * width
        table = parts.whole("quant_map").float()
        pairs = torch.stack([table.repeat_interleave(16), table.repeat(16)], dim=-1)
        codes = _bytes(parts, begin // 2, -(-end // 2)).int()
        values = pairs[codes].reshape(-1)[begin % 2 : begin % 2 + end - begin]
        first, last = begin // self.blocksize, -(-end // self.blocksize)
        scales = self._absmax(parts, first, last).repeat_interleave(self.blocksize)
        scales = scales[begin - first * self.blocksize : end - first * self.blocksize]
        return (values * scales).reshape(stop - start, *self.shape[1:])

    def _absmax(self, parts: Parts, first: int, last: int) -> torch.Tensor:
        """The scales of blocks `first:last`."""
        scales = parts.rows("absmax", first, last)
        if "nested_absmax" not in parts:
            return scales
        nested = parts.whole("nested_absmax").float()[torch.arange(first, last) // self.nested_blocksize]
        return parts.whole("nested_quant_map").float()[scales.int()] * nested + self.nested_offset


def _bytes(parts: Parts, begin: int, end: int) -> torch.Tensor:
    """Bytes `begin:end` of the packed weight, which one row or one column holds, of whatever dtype."""
    size = parts.dtype("weight").itemsize
    first, last = begin // size, -(-end // size)
    if parts.shape("weight")[0] == math.prod(parts.shape("weight")):
        stored = parts.rows("weight", first, last).reshape(-1)
    else:
        stored = parts.whole("weight").reshape(-1)[first:last]
    return stored.view(torch.uint8)[begin - first * size : end - first * size]


def _numbers(stored: StoredWeights, weight: str) -> int:
    """How many codes the bytes of a weight have room for."""
    return 2 * stored.dtype(weight).itemsize * math.prod(stored.shape(weight))


def _state(stored: StoredWeights, name: str) -> Codes:
    """What the JSON of a quant_state says."""
    try:
        fields = json.loads(bytes(stored.read(name).tolist()))
        shape = tuple(int(size) for size in fields["shape"])
        state = Codes(
            shape,
            int(fields["blocksize"]),
            int(fields.get("nested_blocksize", 256)),
            float(fields.get("nested_offset", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"not the JSON of a quant_state ({type(error).__name__}: {error})"
        raise InputError(f"{name}: {what}", hint=_AGAIN) from error
    if not shape or min(*shape, state.blocksize, state.nested_blocksize) < 1:
        raise InputError(f"{name}: a shape of {list(shape)} in blocks of {state.blocksize}", hint=_AGAIN)
    return state


def _planned(stored: StoredWeights, parts: Mapping[str, str], shapes: Shapes) -> Codes:
    """What shapes alone tell of a quant_state: that of the weight is the module's."""
    weight = parts["weight"]
    if math.prod(shapes.get(weight, ())) != _numbers(stored, weight):
        raise InputError(
            f"{parts['state']}: the shape of its weight is in the data, not in the header",
            hint="download the model and plan with its folder, or convert it",
        )
    blocks = math.prod(stored.shape(parts["absmax"]))
    nested = math.prod(stored.shape(parts["nested_absmax"])) if "nested_absmax" in parts else 1
    return Codes(shapes[weight], _block_size(_numbers(stored, weight), blocks), _block_size(blocks, nested), 0.0)


def _block_size(numbers: int, blocks: int) -> int:
    """The smallest size that bitsandbytes has of so many blocks; none of another number."""
    return next((size for size in _BLOCK_SIZES if -(-numbers // size) == blocks), _BLOCK_SIZES[-1])


def _eight_bits(stored: StoredWeights, stem: str) -> Decoding:
    weight = f"{stem}.weight"
    parts = {"weight": companion(stored, weight, weight), "scales": f"{stem}{_SCALES}"}
    require_dtype(stored, weight, torch.int8)
    if len(shape := tuple(stored.shape(weight))) != 2:
        raise wrong_shape(weight, shape, "a matrix")
    require_shape(stored, parts["scales"], (shape[0],))
    if f"{stem}.weight_format" in stored.names():
        parts["format"] = f"{stem}.weight_format"
        require_shape(stored, parts["format"], (), (1,))
    kind = "bitsandbytes, 8 bits with a scale for each row"
    return Decoding(parts, shape, _byte_rows, kind, rounds_activations=True)


def _byte_rows(parts: Parts, start: int, stop: int) -> torch.Tensor:
    if "format" in parts and int(parts.whole("format")) != 0:
        raise InputError(
            f"{parts.name('format')}: rows are stored in an order of bitsandbytes' own, which is not supported yet",
            hint="load the model with bitsandbytes 0.45 or newer and save it again",
        )
    scales = parts.rows("scales", start, stop).float() / 127
    return parts.rows("weight", start, stop).float() * scales[:, None]


def _stem(name: str) -> str:
    return name.removesuffix(_SCALES)
