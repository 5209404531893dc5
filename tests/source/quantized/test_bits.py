"""Packed numbers are what they were before, whatever their width and which of them are asked for."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from autoconvert.source.quantized.bits import BITS, unpack, unpack_columns
from autoconvert.source.quantized.e2m1 import VALUES, unpack_e2m1

from .packed import words


@given(
    bits=st.sampled_from(BITS), rows=st.integers(1, 3), runs=st.integers(1, 3), seed=st.integers(0, 99), data=st.data()
)
def test_unpacking_undoes_packing(bits: int, rows: int, runs: int, seed: int, data: st.DataObject) -> None:
    values = torch.randint(0, 1 << bits, (rows, 32 * runs), generator=torch.Generator().manual_seed(seed))
    packed = words(values, bits)
    assert torch.equal(unpack(packed, bits).long(), values)
    start = data.draw(st.integers(0, 32 * runs))
    stop = data.draw(st.integers(start, 32 * runs))
    assert torch.equal(unpack_columns(packed, bits, start, stop).long(), values[:, start:stop])


def test_the_low_half_of_a_byte_comes_first() -> None:
    data = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    expected = torch.tensor([[VALUES[byte & 15], VALUES[byte >> 4]] for byte in range(256)]).reshape(16, 32)
    assert torch.equal(unpack_e2m1(data), expected)
