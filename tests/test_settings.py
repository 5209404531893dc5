"""Chunk lengths suit the model unless a person named them."""

from autoconvert.settings import choose, for_unrolled


def settings(prefill: tuple[int, ...] | None, context: int | None = 64) -> tuple[int, ...]:
    chosen = choose(None, context=context, prefill=prefill, quantize="none", formats=("tflite",), verify="quick")
    return for_unrolled(chosen).prefill


def test_positions_one_after_the_other_come_in_short_chunks() -> None:
    assert settings(None, context=None) == (16,)


def test_a_short_context_is_one_chunk() -> None:
    assert settings(None, context=8) == (8,)


def test_lengths_that_a_person_named_are_exact() -> None:
    assert settings((64, 4)) == (64, 4)
