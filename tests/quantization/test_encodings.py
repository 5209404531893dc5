"""What encodings store, what it stands for, and how far that may lie from the source."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer, recipe

from autoconvert.lowering.link import link
from autoconvert.quantization.encode import UnrepresentableRow, encode
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import BLOCKS, CHOICES, INT4_BLOCKS, INT8_ROWS, Choice, uniform
from autoconvert.quantization.recipes import ENCODINGS, RECIPES, UNQUANTIZED
from tests.lowering import weightless

# Every scheme; the choice by mean squares knows no blocks.
SCHEMES = [
    uniform(bits, block, choice)
    for bits in (8, 4)
    for block in (None, *BLOCKS)
    for choice in CHOICES
    if choice != "mse" or block is None
]


def test_linked_int8_model_is_what_the_quantizer_makes_of_the_float_model(tmp_path: Path) -> None:
    graphs, weights, store = weightless.lowered(), weightless.weights(), weightless.checkpoint()
    float_path, int8_path = tmp_path / "float.tflite", tmp_path / "int8.tflite"
    link(graphs, weights, store, UNQUANTIZED, float_path)
    link(graphs, weights, store, RECIPES["int8"], int8_path)
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


def decoded(value: torch.Tensor, encoding: Encoding) -> np.ndarray:
    """The float32 numbers that the file holds for `value`."""
    encoded = encode(value, encoding)
    return encoding.decode(encoded.data, encoded.scales)


def test_int8_numbers_are_within_half_a_step() -> None:
    value = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    step = value.abs().amax(dim=1, keepdim=True).numpy() / 127
    distance = np.abs(decoded(value, INT8_ROWS) - value.numpy())
    assert (distance <= step * 0.50001).all()
    assert (distance.max(axis=1, keepdims=True) > step * 0.4).all()


def test_float16_is_rounded_to_nearest() -> None:
    value = torch.tensor([[1.0, 1 + 2**-11, 1 + 3 * 2**-11, 2.0**-25, 65504.0]])
    assert decoded(value, FLOAT16).tolist() == [[1.0, 1.0, 1 + 2**-9, 0.0, 65504.0]]


@pytest.mark.parametrize("encoding", SCHEMES, ids=lambda encoding: encoding.name)
def test_zeros_stay_zeros(encoding: Encoding) -> None:
    value = torch.randn(2, 768, generator=torch.Generator().manual_seed(1))
    value[0], value[1, 256:512] = 0, 0
    encoded = encode(value, encoding)
    assert encoded.scales is not None and (encoded.scales > 0).all()
    assert not encoding.decode(encoded.data, encoded.scales)[value.numpy() == 0].any()


def test_the_first_number_of_a_pair_is_in_the_lower_half() -> None:
    value = torch.zeros(1, 32)
    value[0, :4] = torch.tensor([7.0, -1.0, -7.0, 2.0])
    assert encode(value, INT4_BLOCKS).data[0, :2].tolist() == [0xF7, 0x29]


def test_blocks_are_what_the_quantizer_makes_of_them(tmp_path: Path) -> None:
    graphs, weights, store = weightless.lowered(), weightless.weights(), weightless.checkpoint()
    float_path, int4_path = tmp_path / "float.tflite", tmp_path / "int4.tflite"
    link(graphs, weights, store, UNQUANTIZED, float_path)
    link(graphs, weights, store, RECIPES["int4"], int4_path)
    reference = quantizer.Quantizer(str(float_path), recipe.dynamic_wi4b32_afp32()).quantize().quantized_model
    theirs = flatbuffer_utils.read_model_from_bytearray(bytes(reference))
    ours = flatbuffer_utils.read_model(str(int4_path))
    compared = 0
    for our_graph, their_graph in zip(ours.subgraphs, theirs.subgraphs, strict=True):
        by_name = {tensor.name: tensor for tensor in their_graph.tensors}
        for tensor in our_graph.tensors:
            if tensor.quantization is None or tensor.quantization.details is None:
                continue
            other = by_name[tensor.name]
            details, their_details = tensor.quantization.details, other.quantization.details
            assert (tensor.type, details.blockSize) == (other.type, their_details.blockSize)
            assert (details.zeroPoints, tensor.quantization.quantizedDimension) == (
                their_details.zeroPoints,
                other.quantization.quantizedDimension,
            )
            for mine, yours in (
                (tensor, other),
                (our_graph.tensors[details.scales], their_graph.tensors[their_details.scales]),
            ):
                assert list(mine.shape) == list(yours.shape)
                np.testing.assert_array_equal(ours.buffers[mine.buffer].data, theirs.buffers[yours.buffer].data)
            compared += 1
    assert compared == 4  # up and down in both signatures
    assert [code.version for code in ours.operatorCodes] == [code.version for code in theirs.operatorCodes]


def values() -> torch.Tensor:
    """Rows from where float16 has few numbers left to some of its largest."""
    return torch.randn(64, 256, generator=torch.Generator().manual_seed(2)) * torch.logspace(-6, 4, 64)[:, None]


@pytest.mark.parametrize("encoding", [FLOAT16, *SCHEMES], ids=lambda encoding: encoding.name)
def test_the_tolerance_holds_and_is_no_wider_than_needed(encoding: Encoding) -> None:
    value, encoded = values(), encode(values(), encoding)
    share = np.abs(encoding.decode(encoded.data, encoded.scales) - value.numpy())
    share /= encoding.tolerance(value.numpy(), encoded.scales)
    assert (share <= 1).all()
    assert (share.max(axis=1) > 0.9).all()


def test_float32_is_exact() -> None:
    assert torch.equal(torch.from_numpy(decoded(values(), FLOAT32)), values())
    assert not FLOAT32.tolerance(values().numpy(), None).any()


@pytest.mark.parametrize("encoding", SCHEMES, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("factor", [1.02, -1, 0, 0.5, np.nan])
def test_another_step_is_found(encoding: Encoding, factor: float) -> None:
    value, encoded = values(), encode(values(), encoding)
    assert encoded.scales is not None
    scales = encoded.scales * np.float32(factor)
    with np.errstate(invalid="ignore"):
        distance = np.abs(encoding.decode(encoded.data, scales) - value.numpy())
        wrong = ~(distance <= encoding.tolerance(value.numpy(), scales)).all(axis=1)
    assert wrong.all()


def test_no_distance_is_right_where_a_step_is_coarser_than_its_row_needs() -> None:
    value, encoded = values(), encode(values(), INT8_ROWS)
    assert encoded.scales is not None
    scales = encoded.scales.copy()
    scales[[3, 5]] *= np.array([1.01, -1], np.float32)
    coarse = np.rint(value.numpy() / scales[:, None]).clip(-127, 127).astype(np.int8)
    distance = np.abs(INT8_ROWS.decode(coarse, scales) - value.numpy())
    wrong = ~(distance <= INT8_ROWS.tolerance(value.numpy(), scales)).all(axis=1)
    assert np.flatnonzero(wrong).tolist() == [3, 5]


@pytest.mark.parametrize("choice", ["octav", "mse"])
def test_a_choice_may_cut_off_large_numbers_for_the_sake_of_the_others(choice: Choice) -> None:
    value = torch.randn(64, 512, generator=torch.Generator().manual_seed(3))
    value[:, 7] *= 3
    squares = {
        each: float(np.square(decoded(value, uniform(4, None, each)) - value.numpy()).mean())
        for each in ("min-max", choice)
    }
    assert squares[choice] < 0.8 * squares["min-max"]


@pytest.mark.parametrize("encoding", SCHEMES, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_cut_off(encoding: Encoding, number: float) -> None:
    value = values()
    value[7, 2] = number
    with pytest.raises(UnrepresentableRow, match="row 7"):
        encode(value, encoding)


@pytest.mark.parametrize("encoding", [*ENCODINGS, *SCHEMES], ids=lambda encoding: encoding.name)
def test_sizes_are_those_of_what_is_stored(encoding: Encoding) -> None:
    encoded = encode(values(), encoding)
    assert encoding.data_size((64, 256)) == encoded.data.nbytes
    assert encoding.scale_count((64, 256)) == (0 if encoded.scales is None else encoded.scales.size)
