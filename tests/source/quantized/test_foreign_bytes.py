"""Settings of any kind, and stored tensors of any shape and dtype: weights, or an error that says what is wrong."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoconvert.source.quantized.formats import decoded
from autoconvert.source.quantized.settings import quantization_in
from autoconvert.source.weights import TensorWeights
from tests.foreign_bytes import bounded, documents, ends_well

from . import test_awq, test_bitnet, test_bitsandbytes, test_compressed_tensors, test_fp8, test_gptq
from .packed import QUERY, Quantize

BAD_INPUT = 2
NAME = f"{QUERY}.weight"
COMPRESSED = test_compressed_tensors.config("pack-quantized", num_bits=4, group_size=32, symmetric=False)


def experts(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    data = torch.zeros(2, 4, 2, 16, dtype=torch.uint8)
    return {f"{name}_blocks": data, f"{name}_scales": data[..., 0].clone()}, weight


BASES: dict[str, tuple[dict[str, object], Quantize]] = {
    "gptq": (test_gptq.config(4), test_gptq.quantizer(4)),
    "awq": (test_awq.CONFIG, test_awq.quantizer(32)),
    "fp8": (test_fp8.config(32, 32), test_fp8.quantizer(32, 32)),
    "bitnet": ({"quant_method": "bitnet"}, test_bitnet.quantizer(divides=True)),
    "mxfp4": ({"quant_method": "mxfp4"}, experts),
    "bitsandbytes": (test_bitsandbytes.CONFIG, test_bitsandbytes.quantizer(nested=True)),
    "eight bits": (test_bitsandbytes.EIGHT, test_bitsandbytes.eight_bits),
    "packed": (COMPRESSED, test_compressed_tensors.packer(4, symmetric=False, act_order=True)),
    "integers": (
        test_compressed_tensors.config("int-quantized", symmetric=False),
        test_compressed_tensors.bytes_of(torch.int8, symmetric=False),
    ),
}
SHAPES = [(), (0,), (1,), (2,), (16,), (64,), (256,), (1, 1), (1, 64), (64, 1), (2, 64), (64, 2), (2, 8), (8, 2)]
SHAPES += [(8, 64), (64, 8), (64, 64), (0, 64), (64, 0), (2048, 1), (2, 4, 2), (2, 4, 0), (2, 4, 2, 16), (2, 4, 0, 16)]
DTYPES = [
    torch.float32,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
]


def read_all(fields: object, tensors: Mapping[str, Tensor]) -> None:
    weights, _ = decoded(
        TensorWeights(tensors), quantization_in(Path("config.json"), {"quantization_config": fields}), {}
    )
    for name in weights.names():
        read = weights.read(name)
        assert tuple(read.shape) == tuple(weights.shape(name)) and read.dtype == weights.dtype(name)


@cache
def stored(base: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    torch.manual_seed(0)
    fields, quantize = BASES[base]
    return fields, quantize(NAME, torch.randn(64, 64) * 0.05)[0]


@bounded
@given(base=st.sampled_from(sorted(BASES)), data=st.data())
def test_settings_of_any_kind(base: str, data: st.DataObject) -> None:
    fields, tensors = stored(base)
    content = data.draw(documents(fields))
    try:
        changed = json.loads(content)
    except (ValueError, RecursionError):
        return
    ends_well(lambda: read_all(changed, tensors), BAD_INPUT)


@bounded
@given(
    base=st.sampled_from(sorted(BASES)),
    place=st.integers(0, 9),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    value=st.integers(0, 3),
)
def test_stored_tensors_of_any_kind(
    base: str, place: int, shape: tuple[int, ...], dtype: torch.dtype, value: int
) -> None:
    fields, tensors = stored(base)
    name = sorted(tensors)[place % len(tensors)]
    ends_well(lambda: read_all(fields, {**tensors, name: torch.full(shape, value).to(dtype)}), BAD_INPUT)


def test_the_bases_are_whole() -> None:
    for base in BASES:
        read_all(*stored(base))
