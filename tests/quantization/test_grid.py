"""What was rounded once is not rounded again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoconvert.quantization.encode import encode
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.uniform import INT4_BLOCKS, INT8_ROWS, uniform
from autoconvert.quantization.grid import steps_of

GENERATOR = np.random.default_rng(0)


def on_grid(rows: int, columns: int, group: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a checkpoint, and how many steps each is: a step for each group, and not every step in use."""
    counts = GENERATOR.integers(-most - 1, most + 1, (rows, columns // group, group))
    steps = GENERATOR.uniform(1e-3, 1e-2, (rows, columns // group, 1)).astype(np.float32)
    return (counts * steps).astype(np.float32).reshape(rows, columns), counts.reshape(rows, columns)


@pytest.mark.parametrize(
    ("encoding", "group", "most"),
    [(INT4_BLOCKS, 32, 7), (INT4_BLOCKS, 128, 7), (INT8_ROWS, 256, 127), (INT8_ROWS, 256, 5), (uniform(4, 64), 64, 7)],
    ids=lambda each: getattr(each, "name", each),
)
def test_integers_of_a_checkpoint_are_kept(encoding: Encoding, group: int, most: int) -> None:
    numbers, counts = on_grid(16, 256, group, most)
    encoded = encode(torch.from_numpy(numbers), encoding)
    assert encoded.kept == numbers.size
    assert encoded.scales is not None
    stored = encoding.decode(encoded.data, encoded.scales)
    # Scales of blocks have eight binary digits; the integers are the same, or all a common divisor smaller.
    np.testing.assert_allclose(stored, numbers, rtol=2**-8 if encoding.block else 1e-6)
    assert (np.abs(stored - numbers) <= encoding.tolerance(numbers, encoded.scales)).all()
    each = counts.reshape(-1, encoding.block or 256)
    again = (stored.reshape(each.shape) / np.abs(stored.reshape(each.shape)).max(axis=1, keepdims=True)) * np.abs(
        each
    ).max(axis=1, keepdims=True)
    np.testing.assert_allclose(again, each, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_four_bits_are_found_in_what_was_saved_in_half_precision(dtype: torch.dtype) -> None:
    numbers, _ = on_grid(16, 256, 32, 7)
    assert encode(torch.from_numpy(numbers).to(dtype), INT4_BLOCKS).kept == numbers.size


def test_ordinary_numbers_lie_on_no_grid() -> None:
    for most, group in ((7, 32), (127, 256)):
        assert steps_of(GENERATOR.standard_normal((64, 4, group)).astype(np.float32), most) is None


def test_a_grid_that_has_more_steps_than_the_encoding_is_rounded() -> None:
    numbers, _ = on_grid(16, 256, 32, 15)
    encoded = encode(torch.from_numpy(numbers), INT4_BLOCKS)
    assert encoded.kept < 0.02 * numbers.size


@given(st.integers(2, 8), st.floats(-30, 30), st.lists(st.integers(-8, 7), min_size=32, max_size=32).filter(any))
@settings(max_examples=200, deadline=None)
def test_a_step_that_is_found_is_one_of_which_all_are_multiples(scale: int, power: float, counts: list[int]) -> None:
    numbers = (np.array(counts, np.float32) * np.float32(scale * 2.0**power)).reshape(1, 1, 32)
    steps = steps_of(numbers, 7)
    assert steps is not None
    multiples = numbers[0, 0] / steps[0, 0]
    np.testing.assert_allclose(multiples, np.rint(multiples), atol=0.05)
    assert np.rint(multiples).min() >= -8 and np.rint(multiples).max() <= 7
