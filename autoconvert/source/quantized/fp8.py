"""FP8: floating-point numbers of eight bits with scales in blocks, for each row, or for all.

    NAME           float8 [..., out, in]
    NAME_scale_inv float32, bfloat16 or E8M0, one for each block of weight_block_size, as DeepSeek stores it, or for all
    NAME_scale     as FBGEMM stores it: one for each row

NAME is X.weight, or the stacked weights of experts. Each number is multiplied by its scale, whatever that is called, as
by `Fp8Dequantize` of transformers' `integrations/finegrained_fp8.py`. Blocks at the end may be cut off: DeepSeek's are.
"""

from contextlib import suppress

import torch

from autoconvert.errors import InputError
from autoconvert.source.quantized.blocks import BlockScaled, block_of, described
from autoconvert.source.quantized.decoding import Decoding, companion, require_dtype, wrong_shape
from autoconvert.source.quantized.settings import Quantization
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = (*FLOAT_DTYPES, torch.float8_e8m0fnu, torch.uint8)
_SUFFIXES = ("_scale_inv", "_scale")
_DEFAULT_BLOCK = (128, 128)


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights of 8-bit floats. Raises InputError where one has no scales, or none that fit."""
    asked = _block_size(quantization)
    return {name: _decoding(stored, name, asked) for name in stored.names() if _is_float8(stored, name)}


def _decoding(stored: StoredWeights, name: str, asked: tuple[int, ...]) -> Decoding:
    given = [name + suffix for suffix in _SUFFIXES if name + suffix in stored.names()]
    scale = given[0] if given else companion(stored, name, name + _SUFFIXES[0])
    require_dtype(stored, scale, *SCALES)
    shape = tuple(stored.shape(name))
    if not shape or (block := block_of(shape, stored.shape(scale), asked)) is None:
        raise wrong_shape(scale, stored.shape(scale), f"a scale for each block of {name}, of shape {list(shape)},")
    parts = {"weight": name, "scale": scale}
    return Decoding(
        parts, shape, BlockScaled(shape, block).rows, f"FP8 {described(shape, block)}", rounds_activations=True
    )


def _block_size(quantization: Quantization) -> tuple[int, ...]:
    size = quantization.fields.get("weight_block_size", _DEFAULT_BLOCK)
    if size is None:
        return ()
    if not (
        isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(each, int) and each > 0 for each in size)
    ):
        raise quantization.unsupported(f"weight_block_size {size!r}")
    return tuple(size)


def _is_float8(stored: StoredWeights, name: str) -> bool:
    """Whether a tensor holds 8-bit floats; one of an unknown dtype is an error only where it is read."""
    if name.endswith(_SUFFIXES):
        return False
    with suppress(InputError):
        return stored.dtype(name) in FLOAT8
    return False
