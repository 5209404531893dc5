"""MXFP4 as gpt-oss stores its experts: E2M1 numbers in blocks of 32, each with a power of two.

transformers reads them by `convert_moe_packed_tensors` of `integrations/mxfp4.py`. For experts of `out` outputs and
32 G inputs:

    NAME_blocks [experts, out, G, 16]  uint8, two numbers a byte, the low half first
    NAME_scales [experts, out, G]      uint8, E8M0

NAME has the axes [experts, inputs, outputs]: outputs are stored before inputs.
"""

import torch

from autoconvert.source.quantized.blocks import exponents
from autoconvert.source.quantized.decoding import Decoding, Parts, companion, require_dtype, require_shape, wrong_shape
from autoconvert.source.quantized.e2m1 import unpack_e2m1
from autoconvert.source.quantized.settings import Quantization
from autoconvert.source.weights import StoredWeights


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights whose blocks are stored. Raises InputError where their parts do not fit together."""
    names = [name for name in stored.names() if name.endswith("_blocks")]
    for name in stored.names():
        if name.endswith("_scales"):
            companion(stored, name.removesuffix("_scales"), f"{name.removesuffix('_scales')}_blocks")
    return {name.removesuffix("_blocks"): _decoding(stored, name.removesuffix("_blocks")) for name in names}


def _decoding(stored: StoredWeights, weight: str) -> Decoding:
    parts = {"blocks": f"{weight}_blocks", "scales": companion(stored, weight, f"{weight}_scales")}
    for name in parts.values():
        require_dtype(stored, name, torch.uint8)
    if len(shape := stored.shape(parts["blocks"])) != 4:
        raise wrong_shape(parts["blocks"], shape, "[experts, outputs, blocks, bytes]")
    experts, outputs, blocks, size = shape
    require_shape(stored, parts["scales"], (experts, outputs, blocks))
    return Decoding(parts, (experts, 2 * size * blocks, outputs), _rows, f"MXFP4, 4 bits in blocks of {2 * size}")


def _rows(parts: Parts, start: int, stop: int) -> torch.Tensor:
    values = unpack_e2m1(parts.rows("blocks", start, stop))
    scales = exponents(parts.rows("scales", start, stop))
    return (values * scales[..., None]).flatten(2).transpose(1, 2)
