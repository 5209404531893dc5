"""Chunk lengths suit the model unless a person named them, and so does the context; a recipe is a name or itself."""

import pytest
from transformers import PreTrainedConfig

from autoconvert.driver.settings import as_data, choose, context_limit, for_unrolled
from autoconvert.errors import InputError
from autoconvert.quantization.recipe import Recipe
from autoconvert.quantization.recipes import RECIPES


def settings(prefill: tuple[int, ...] | None, context: int | None = 64) -> tuple[int, ...]:
    chosen = choose(None, context=context, prefill=prefill, quantize="none", formats=("tflite",), verify="quick")
    return for_unrolled(chosen).prefill


def test_positions_one_after_the_other_come_in_short_chunks() -> None:
    assert settings(None, context=None) == (16,)


def test_a_short_context_is_one_chunk() -> None:
    assert settings(None, context=8) == (8,)


def test_lengths_that_a_person_named_are_exact() -> None:
    assert settings((64, 4)) == (64, 4)


@pytest.mark.parametrize("name", ["max_position_embeddings", "max_seq_len", "seq_length"])
def test_the_limit_is_read_whatever_a_configuration_calls_it(name: str) -> None:
    assert context_limit(PreTrainedConfig(**{name: 48})) == 48


def test_a_configuration_may_name_no_limit() -> None:
    assert context_limit(PreTrainedConfig()) is None
    assert context_limit(None) is None


def quantized(quantize: str | Recipe) -> Recipe:
    chosen = choose(None, context=16, prefill=(4,), quantize=quantize, formats=("tflite",), verify="off")
    assert as_data(chosen)["quantize"] == chosen.quantize.name
    return chosen.quantize


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    assert quantized(name) is RECIPES[name]


def test_a_recipe_may_be_given_itself() -> None:
    own = Recipe("int8", "another of this name")
    assert quantized(own) is own


def test_a_recipe_that_is_not_known_is_bad_input() -> None:
    with pytest.raises(InputError, match="--quantize int3 is not known") as caught:
        quantized("int3")
    assert caught.value.hint.startswith("Choose one of none, fp16, int8, int4, or a recipe's JSON file")


def chosen_context(context: int | None, limit: int) -> int:
    config = PreTrainedConfig(max_position_embeddings=limit)
    return choose(config, context=context, prefill=None, quantize="none", formats=("tflite",), verify="quick").context


def test_a_default_context_fits_a_cache_within_the_models_limit() -> None:
    assert chosen_context(None, 1021) == 1020
    assert chosen_context(None, 1024) == 1024


def test_a_prime_context_stays_what_was_asked_where_the_cache_may_be_longer() -> None:
    assert chosen_context(1021, 2048) == 1021


def test_a_prime_context_that_is_the_models_limit_is_refused_with_one_that_works() -> None:
    with pytest.raises(InputError, match="prime") as caught:
        chosen_context(1021, 1021)
    assert "--context 1020" in caught.value.hint
