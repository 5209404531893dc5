"""Texts that a file reads: every kind of piece, the windows passed, the last slot reached, and nothing beyond it."""

from itertools import accumulate, pairwise

import pytest

from autoconvert.check.readings import DECODE, Reading, at_the_end, from_all_starts, from_the_start, token_by_token


def ends(reading: Reading) -> list[int]:
    """The slot after the last that each piece writes, padding too."""
    begins = accumulate((real for real, _ in reading.pieces), initial=reading.start)
    return [begin + max(real, slots) for begin, (real, slots) in zip(begins, reading.pieces, strict=False)]


def test_a_text_has_a_first_token_a_part_filled_chunk_and_full_ones_each_followed_by_a_decode() -> None:
    assert from_the_start((128, 16), 4096, 97).pieces == (
        (1, DECODE),
        (8, 16),
        (1, DECODE),
        (16, 16),
        (1, DECODE),
        (128, 128),
        (1, DECODE),
    )


@pytest.mark.parametrize("window", [3, 200, 512, 1024])
def test_windows_are_passed(window: int) -> None:
    reading = from_the_start((128, 16), 4096, 97, (window,))
    assert reading.compared[-1] > window


def test_a_window_too_long_for_the_check_is_left() -> None:
    assert from_the_start((128, 16), 8192, 97, (4096,)).length < 200


@pytest.mark.parametrize("lengths", [(1,), (4,), (16, 4), (7, 5), (128, 16)])
@pytest.mark.parametrize("capacity", [4, 9, 24, 40, 250])
def test_no_piece_goes_beyond_the_cache_and_the_last_slot_can_be_reached(
    lengths: tuple[int, ...], capacity: int
) -> None:
    for whole in (False, True):
        reading = from_the_start(lengths, capacity, 97, (20,), to_the_end=whole)
        assert max(ends(reading)) <= capacity
        assert not whole or reading.compared[-1] == capacity - 1
        assert len(reading.tokens) == reading.length


@pytest.mark.parametrize("lengths", [(4,), (16, 4), (8, 7, 5), (9, 2)])
@pytest.mark.parametrize("capacity", [9, 16, 17, 24, 40])
def test_every_chunk_is_read_before_a_token_that_is_decoded(lengths: tuple[int, ...], capacity: int) -> None:
    lengths = tuple(length for length in lengths if length <= capacity)
    readings = from_all_starts(lengths, capacity, 97)
    pairs = [pair for reading in readings for pair in pairwise(slots for _, slots in reading.pieces)]
    assert {slots for slots, after in pairs if after == DECODE} >= set(lengths)
    assert max(end for reading in readings for end in ends(reading)) <= capacity


@pytest.mark.parametrize("lengths", [(128, 16), (128,), (17,), (4,)])
def test_the_end_of_the_context_is_decoded_from_texts_that_begin_late(lengths: tuple[int, ...]) -> None:
    readings = at_the_end(lengths, 4096, 97)
    assert max(end for reading in readings for end in ends(reading)) == 4096
    assert {reading.start + index for reading in readings for index in reading.compared} >= {4094, 4095}
    assert min(reading.start for reading in readings) >= 4096 - min(lengths) - 2
    assert {slots for reading in readings for _, slots in reading.pieces} == {DECODE, min(lengths)}


def test_of_a_chunk_with_many_slots_few_are_filled_but_once() -> None:
    assert from_the_start((128,), 4096, 97).pieces == ((1, DECODE), (16, 128), (1, DECODE), (128, 128), (1, DECODE))


def test_token_by_token_decodes_each() -> None:
    assert token_by_token(12, 97).compared == list(range(12))
