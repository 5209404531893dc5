"""Encodings mixed for a grade or a size."""

from functools import cache

import pytest

from autoconvert.check.expected import Expected
from autoconvert.check.parity import random_tokens
from autoconvert.driver.mix import Measured, of_grade, of_size
from autoconvert.driver.needs import file_size, parameters_of
from autoconvert.driver.settings import Settings, choose
from autoconvert.errors import InputError
from autoconvert.quantization.recipe import Recipe
from autoconvert.quantization.recipes import RECIPES
from autoconvert.source.source import load_source
from tests.source.tiny import build, llama


@cache
def measured() -> Measured:
    module = build(llama(hidden_size=64, intermediate_size=64, num_hidden_layers=3))
    # So that it says something, and one layer matters more than the others.
    for parameter in module.parameters():
        parameter.data *= 4
    for parameter in module.get_submodule("model.layers.1").parameters():
        parameter.data *= 3
    source = load_source(module)
    tokens = random_tokens(24, 97)
    return Measured(source, tokens, Expected(source).of_text(tokens), lambda *_: None)


def settings(quantize: str) -> Settings:
    return choose(None, context=32, prefill=None, quantize=quantize, formats=("litertlm",), verify="quick")


def size(recipe: Recipe) -> int:
    source = measured().source
    parameters = parameters_of(source, [name for name, _ in source.module.named_parameters()])
    return file_size(parameters, recipe, settings("int8").signatures)


def test_a_grade_between_those_of_two_recipes_is_reached_by_a_mixture() -> None:
    worst, best = (measured().divergence(RECIPES[name]) for name in ("int4", "int8"))
    wanted = (worst * best) ** 0.5
    recipe = of_grade(measured(), RECIPES["int4"], wanted)
    assert measured().divergence(recipe) <= wanted < worst
    assert size(RECIPES["int4"]) < size(recipe) < size(RECIPES["int8"])


def test_a_grade_that_is_reached_already_changes_nothing() -> None:
    assert of_grade(measured(), RECIPES["int4"], 1e9) is RECIPES["int4"]


def test_a_grade_that_no_finer_recipe_reaches_needs_one_that_is_finer_still() -> None:
    best = measured().divergence(RECIPES["int8"])
    recipe = of_grade(measured(), RECIPES["int4"], best / 100)
    assert measured().divergence(recipe) <= best / 100
    assert of_grade(measured(), RECIPES["int8"], 0.0).exact


def test_as_much_is_stored_coarser_as_a_size_needs() -> None:
    wanted = (size(RECIPES["int4"]) + size(RECIPES["int8"])) // 2
    recipe = of_size(measured(), settings("int8"), wanted)
    assert size(RECIPES["int4"]) < size(recipe) <= wanted
    worst = measured().divergence(RECIPES["int4"])
    assert measured().divergence(recipe) < worst
    assert of_size(measured(), settings("int8"), size(RECIPES["int8"])) is RECIPES["int8"]


def test_a_size_that_nothing_has_is_refused_with_the_smallest() -> None:
    with pytest.raises(InputError, match="its smallest has") as caught:
        of_size(measured(), settings("int8"), size(RECIPES["int4"]) - 1)
    assert "--target-size" in caught.value.hint
