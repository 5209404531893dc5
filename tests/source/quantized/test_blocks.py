"""Blocks that share a scale: which size they have, and that every row finds its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoconvert.source.quantized.blocks import block_of, exponents, spread
from autoconvert.source.quantized.decoding import Parts
from autoconvert.source.weights import TensorWeights


@pytest.mark.parametrize(
    "shape, grid, asked, block",
    [
        ((6, 8), (), (), (6, 8)),
        ((6, 8), (1, 1), (4, 4), (6, 8)),
        ((6, 8), (6,), (), (1, 8)),
        ((6, 8), (6, 1), (), (1, 8)),
        ((6, 8), (6, 2), (), (1, 4)),
        ((6, 8), (2, 2), (4, 4), (4, 4)),
        ((6, 8), (3, 2), (4, 4), (2, 4)),
        ((5, 6, 8), (5, 2, 2), (4, 4), (1, 4, 4)),
        ((5, 6, 8), (5, 1, 8), (), (1, 6, 1)),
        ((6, 8), (4, 2), (4, 4), None),
        ((6, 8), (6, 8, 1), (), None),
        ((6, 8), (0, 8), (), None),
        ((6, 8), (8,), (), None),
    ],
)
def test_the_size_of_blocks(
    shape: tuple[int, ...], grid: tuple[int, ...], asked: tuple[int, ...], block: tuple[int, ...] | None
) -> None:
    assert block_of(shape, grid, asked) == block


@given(
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_every_number_finds_its_block(block: tuple[int, int], size: tuple[int, int], data: st.DataObject) -> None:
    grid = tuple(-(-length // each) for length, each in zip(size, block, strict=True))
    numbers = torch.arange(float(grid[0] * grid[1])).reshape(grid)
    start = data.draw(st.integers(0, size[0] - 1))
    stop = data.draw(st.integers(start + 1, size[0]))
    parts = Parts(TensorWeights({"s": numbers}), {"scale": "s"})
    found = block_of(size, grid, block)
    assert found is not None
    rows = spread(parts, "scale", size, found, start, stop).expand(stop - start, size[1])
    expected = [
        [numbers[row // block[0], column // block[1]] for column in range(size[1])] for row in range(start, stop)
    ]
    assert torch.equal(rows, torch.tensor(expected))


def test_bytes_are_exponents() -> None:
    data = torch.tensor([0, 1, 126, 127, 128, 254], dtype=torch.uint8)
    expected = torch.tensor([2.0**-127, 2.0**-126, 0.5, 1.0, 2.0, 2.0**127])
    assert torch.equal(exponents(data), expected)
    assert torch.equal(exponents(data.view(torch.float8_e8m0fnu)), expected)
