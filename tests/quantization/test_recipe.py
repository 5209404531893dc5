"""A recipe decides by use, by rank and by name; its first rule that fits wins."""

import pytest

from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import INT4_BLOCKS, INT8_ROWS
from autoconvert.quantization.recipe import HEAD as HEAD_USE
from autoconvert.quantization.recipe import LOOKED_UP as EMBEDDING
from autoconvert.quantization.recipe import MULTIPLIED as LINEAR
from autoconvert.quantization.recipe import Recipe, RecipeRule, Use
from autoconvert.quantization.recipes import RECIPES

NORM = ("MUL", 1)
WEIGHT = ("model.layers.0.mlp.up_proj.weight",)


@pytest.mark.parametrize(
    ("recipe", "uses", "shape", "expected"),
    [
        ("int8", {LINEAR}, (8, 8), INT8_ROWS),
        ("int8", {EMBEDDING, LINEAR}, (8, 8), INT8_ROWS),
        ("int8", {LINEAR, ("BATCH_MATMUL", 1)}, (8, 8), FLOAT32),
        ("int8", {("FULLY_CONNECTED", 0)}, (8, 8), FLOAT32),
        ("int8", {("FULLY_CONNECTED", 2)}, (8,), FLOAT32),
        ("int8", {NORM}, (8,), FLOAT32),
        ("int8", set(), (8, 8), FLOAT32),
        ("fp16", {EMBEDDING}, (8, 8), FLOAT16),
        ("fp16", {NORM}, (8,), FLOAT32),
        ("none", {LINEAR}, (8, 8), FLOAT32),
        ("int4", {LINEAR}, (8, 64), INT4_BLOCKS),
        ("int4", {LINEAR}, (64, 48), INT8_ROWS),
        ("int4", {LINEAR, HEAD_USE}, (8, 64), INT8_ROWS),
        ("int4", {EMBEDDING}, (8, 64), INT8_ROWS),
        ("int4", {EMBEDDING, LINEAR}, (8, 64), INT8_ROWS),
        ("int4", {LINEAR, ("BATCH_MATMUL", 1)}, (8, 64), FLOAT32),
    ],
)
def test_encoding_follows_from_recipe_and_use(
    recipe: str, uses: set[Use], shape: tuple[int, ...], expected: Encoding
) -> None:
    assert RECIPES[recipe].encoding_of(WEIGHT, uses, shape) is expected


HEAD, EXPERTS = RecipeRule(FLOAT32, path=r"^lm_head\."), RecipeRule(FLOAT16, path=r"\.experts\.\d+\.")
MIXED = Recipe("mixed", "by name", (HEAD, EXPERTS, RecipeRule(INT8_ROWS)), rounding=0.25)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (("lm_head.weight",), FLOAT32),
        (("model.lm_head.weight",), INT8_ROWS),
        (("model.layers.3.mlp.experts.11.up.weight",), FLOAT16),
        (("a.experts.0.up.weight", "a.experts.1.up.weight"), FLOAT16),
        (("a.experts.0.up.weight", "a.shared.up.weight"), INT8_ROWS),
        (WEIGHT, INT8_ROWS),
    ],
)
def test_encoding_follows_from_the_names_of_the_sources(sources: tuple[str, ...], expected: Encoding) -> None:
    assert MIXED.encoding_of(sources, {LINEAR}, (8, 8)) is expected
    assert expected in MIXED.encodings_of(sources)


def test_what_a_name_rules_out_a_weight_may_not_have() -> None:
    assert MIXED.encodings_of(WEIGHT) == (INT8_ROWS, FLOAT32)
    assert MIXED.encodings_of(("lm_head.weight",)) == (FLOAT32, INT8_ROWS)
    assert RECIPES["none"].encodings_of(WEIGHT) == (FLOAT32,)


def test_only_what_rounds_nothing_is_exact() -> None:
    assert [name for name, recipe in RECIPES.items() if recipe.exact] == ["none"]
