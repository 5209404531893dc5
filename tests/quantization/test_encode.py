"""Values become what is stored, in tiles or at once; what cannot be stored is named by its row."""

import numpy as np
import pytest
import torch

from autoconvert.quantization import encode as encode_module
from autoconvert.quantization.encode import UnrepresentableRow, encode
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import INT8_ROWS
from autoconvert.quantization.recipes import ENCODINGS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tiles_give_what_the_whole_tensor_gives(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    value = torch.randn(37, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = encode(value, INT8_ROWS)
    monkeypatch.setattr(encode_module, "_TILE_ELEMENTS", 5 * 48)
    tiled = encode(value, INT8_ROWS)
    assert whole.scales is not None and tiled.scales is not None
    np.testing.assert_array_equal(tiled.data, whole.data)
    np.testing.assert_array_equal(tiled.scales, whole.scales)


def test_values_of_any_shape_are_rows_of_columns() -> None:
    value = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert encode(value.t(), FLOAT32).data.tolist() == value.t().tolist()
    assert encode(value.reshape(1, 2, 3), FLOAT32).data.tolist() == [value.flatten().tolist()]
    assert encode(value[1], FLOAT32).data.tolist() == [[3.0], [4.0], [5.0]]
    assert encode(torch.tensor(2.5), FLOAT32).data.tolist() == [[2.5]]


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_row_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch, encoding: Encoding, number: float) -> None:
    monkeypatch.setattr(encode_module, "_TILE_ELEMENTS", 64)
    value = torch.ones(10, 32)
    value[7, 2] = number
    with pytest.raises(UnrepresentableRow, match="row 7 has NaN or infinite numbers") as caught:
        encode(value, encoding)
    assert caught.value.row == 7
    assert "damaged" in caught.value.hint


def test_row_beyond_the_encoding_is_named() -> None:
    value = torch.ones(10, 8)
    value[4, 1] = 1e6
    with pytest.raises(UnrepresentableRow, match="row 4 has numbers beyond float16") as caught:
        encode(value, FLOAT16)
    assert "another quantization" in caught.value.hint
