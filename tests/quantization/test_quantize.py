"""int8 values and scales are those that ai-edge-quantizer gives the same model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer, recipe

from autoconvert.lowering.link import link
from autoconvert.quantization import quantize
from autoconvert.quantization.quantize import Encoding, UnrepresentableRow, dequantised, encode, encoding_for
from tests.lowering import weightless

LINEAR, EMBEDDING, NORM = ("FULLY_CONNECTED", 1), ("EMBEDDING_LOOKUP", 1), ("MUL", 1)


def test_linked_int8_model_is_what_the_quantizer_makes_of_the_float_model(tmp_path: Path) -> None:
    graphs, weights, store = weightless.lowered(), weightless.weights(), weightless.checkpoint()
    float_path, int8_path = tmp_path / "float.tflite", tmp_path / "int8.tflite"
    link(graphs, weights, store, "none", float_path)
    link(graphs, weights, store, "int8", int8_path)
    reference = quantizer.Quantizer(str(float_path), recipe.dynamic_wi8_afp32()).quantize().quantized_model
    theirs = flatbuffer_utils.read_model_from_bytearray(bytes(reference))
    ours = flatbuffer_utils.read_model(str(int8_path))
    compared = 0
    for our_graph, their_graph in zip(ours.subgraphs, theirs.subgraphs, strict=True):
        by_name = {tensor.name: tensor for tensor in their_graph.tensors}
        for tensor in our_graph.tensors:
            if tensor.quantization is None or tensor.quantization.scale is None:
                continue
            other = by_name[tensor.name]
            assert tensor.type == other.type
            assert tensor.quantization.quantizedDimension == other.quantization.quantizedDimension
            np.testing.assert_array_equal(tensor.quantization.scale, other.quantization.scale)
            np.testing.assert_array_equal(tensor.quantization.zeroPoint, other.quantization.zeroPoint)
            np.testing.assert_array_equal(
                np.frombuffer(ours.buffers[tensor.buffer].data, np.int8),
                np.frombuffer(theirs.buffers[other.buffer].data, np.int8),
            )
            compared += 1
        for operator, other in zip(our_graph.operators, their_graph.operators, strict=True):
            assert _options(operator) == _options(other)
    assert compared == 7  # embed, up, down in both signatures, and decode's head
    assert [code.version for code in ours.operatorCodes] == [code.version for code in theirs.operatorCodes]


def _options(operator: object) -> dict[str, object]:
    return dict(vars(getattr(operator, "builtinOptions", None) or object.__new__(_Empty)))


class _Empty:
    """Options of an operator that has none."""


@pytest.mark.parametrize(
    ("scheme", "uses", "rank", "expected"),
    [
        ("int8", {LINEAR}, 2, Encoding.INT8_ROWS),
        ("int8", {EMBEDDING, LINEAR}, 2, Encoding.INT8_ROWS),
        ("int8", {LINEAR, ("BATCH_MATMUL", 1)}, 2, Encoding.FLOAT32),
        ("int8", {("FULLY_CONNECTED", 0)}, 2, Encoding.FLOAT32),
        ("int8", {("FULLY_CONNECTED", 2)}, 1, Encoding.FLOAT32),
        ("int8", {NORM}, 1, Encoding.FLOAT32),
        ("fp16", {EMBEDDING}, 2, Encoding.FLOAT16),
        ("fp16", {NORM}, 1, Encoding.FLOAT32),
        ("none", {LINEAR}, 2, Encoding.FLOAT32),
    ],
)
def test_encoding_follows_from_scheme_and_use(
    scheme: quantize.Scheme, uses: set[tuple[str, int]], rank: int, expected: Encoding
) -> None:
    assert encoding_for(scheme, uses, rank) is expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tiles_give_what_the_whole_tensor_gives(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    value = torch.randn(37, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = encode(value, Encoding.INT8_ROWS)
    monkeypatch.setattr(quantize, "_TILE_ELEMENTS", 5 * 48)
    tiled = encode(value, Encoding.INT8_ROWS)
    assert whole.scales is not None and tiled.scales is not None
    np.testing.assert_array_equal(tiled.data, whole.data)
    np.testing.assert_array_equal(tiled.scales, whole.scales)


def test_dequantised_numbers_are_within_half_a_step() -> None:
    value = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    step = value.abs().amax(dim=1, keepdim=True) / 127
    distance = (dequantised(value, Encoding.INT8_ROWS) - value).abs()
    assert (distance <= step * 0.50001).all()
    assert (distance.amax(dim=1, keepdim=True) > step * 0.4).all()


def test_float16_is_rounded_to_nearest() -> None:
    value = torch.tensor([[1.0, 1 + 2**-11, 1 + 3 * 2**-11, 2.0**-25, 65504.0]])
    assert dequantised(value, Encoding.FLOAT16).tolist() == [[1.0, 1.0, 1 + 2**-9, 0.0, 65504.0]]


def test_row_of_zeros_stays_zeros() -> None:
    encoded = encode(torch.zeros(2, 8), Encoding.INT8_ROWS)
    assert encoded.scales is not None
    assert not encoded.data.any()
    assert (encoded.scales > 0).all()


def test_transposed_view_and_scalar_are_encoded() -> None:
    value = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert encode(value.t(), Encoding.FLOAT32).data.tolist() == value.t().tolist()
    assert encode(torch.tensor(2.5), Encoding.FLOAT32).data == np.float32(2.5)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_row_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch, encoding: Encoding) -> None:
    monkeypatch.setattr(quantize, "_TILE_ELEMENTS", 16)
    value = torch.ones(10, 8)
    value[7, 2] = float("nan")
    with pytest.raises(UnrepresentableRow) as caught:
        encode(value, encoding)
    assert caught.value.row == 7
