"""What encodings store, what it stands for, and how far that may lie from the source."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer, recipe

from autoconvert.lowering.link import link
from autoconvert.quantization.encode import encode
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.int8_rows import INT8_ROWS
from autoconvert.quantization.recipes import ENCODINGS, RECIPES, UNQUANTIZED
from tests.lowering import weightless


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


def test_row_of_zeros_stays_zeros() -> None:
    encoded = encode(torch.zeros(2, 8), INT8_ROWS)
    assert encoded.scales is not None
    assert not encoded.data.any()
    assert (encoded.scales > 0).all()


def values() -> torch.Tensor:
    """Rows from where float16 has few numbers left to some of its largest."""
    return torch.randn(64, 256, generator=torch.Generator().manual_seed(2)) * torch.logspace(-6, 4, 64)[:, None]


@pytest.mark.parametrize("encoding", [FLOAT16, INT8_ROWS], ids=lambda encoding: encoding.name)
def test_the_tolerance_holds_and_is_no_wider_than_needed(encoding: Encoding) -> None:
    value, encoded = values(), encode(values(), encoding)
    share = np.abs(encoding.decode(encoded.data, encoded.scales) - value.numpy())
    share /= encoding.tolerance(value.numpy(), encoded.scales)
    assert (share <= 1).all()
    assert (share.max(axis=1) > 0.9).all()


def test_float32_is_exact() -> None:
    assert torch.equal(torch.from_numpy(decoded(values(), FLOAT32)), values())
    assert not FLOAT32.tolerance(values().numpy(), None).any()


def test_no_distance_is_right_where_a_step_is_coarser_than_its_row_needs() -> None:
    value, encoded = values(), encode(values(), INT8_ROWS)
    assert encoded.scales is not None
    scales = encoded.scales.copy()
    scales[[3, 5]] *= np.array([1.01, -1], np.float32)
    wrong = np.isnan(INT8_ROWS.tolerance(value.numpy(), scales)[:, 0])
    assert np.flatnonzero(wrong).tolist() == [3, 5]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_sizes_are_those_of_what_is_stored(encoding: Encoding) -> None:
    encoded = encode(values(), encoding)
    assert encoding.data_size((64, 256)) == encoded.data.nbytes
    assert encoding.scale_count((64, 256)) == (0 if encoded.scales is None else encoded.scales.size)
