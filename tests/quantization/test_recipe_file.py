"""Recipes that were written for ai-edge-quantizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from ai_edge_quantizer import qtyping, recipe, recipe_manager

from autoconvert.errors import InputError
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import INT4_BLOCKS, INT8_ROWS, uniform
from autoconvert.quantization.recipe import HEAD, LOOKED_UP, MULTIPLIED, Use
from autoconvert.quantization.recipe_file import read_recipe, recipe_of
from autoconvert.quantization.recipes import RECIPES

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
FULLY_CONNECTED, LOOKUP = qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.EMBEDDING_LOOKUP


def written(folder: Path, rules: list[dict[str, Any]]) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps(rules))
    return path


@pytest.mark.parametrize(
    ("rules", "use", "expected"),
    [
        (recipe.dynamic_wi8_afp32(), MULTIPLIED, INT8_ROWS),
        (recipe.dynamic_wi8_afp32(), LOOKED_UP, INT8_ROWS),
        (recipe.dynamic_wi8_afp32(), HEAD, INT8_ROWS),
        (recipe.dynamic_wi4_afp32(), MULTIPLIED, uniform(4)),
        (recipe.dynamic_wi4b32_afp32(), MULTIPLIED, INT4_BLOCKS),
        (recipe.dynamic_wi4b64_afp32(), MULTIPLIED, uniform(4, 64)),
        (recipe.weight_only_wi8_afp32(), MULTIPLIED, uniform(8, widened=True)),
        (recipe.dynamic_wi8_afp32(algorithm_key="OCTAV"), MULTIPLIED, uniform(8, choice="octav")),
        (recipe.dynamic_wi4c_afp32(operation_name=FULLY_CONNECTED), LOOKED_UP, FLOAT32),
    ],
)
def test_the_quantizer_s_own_recipes_are_read(
    tmp_path: Path, rules: list[dict[str, Any]], use: Use, expected: Encoding
) -> None:
    assert read_recipe(written(tmp_path, rules)).encoding_of([UP], {use}, (64, 256)) is expected


def test_the_last_rule_that_fits_decides(tmp_path: Path) -> None:
    rules = [
        *recipe.dynamic_wi4b32_afp32(operation_name=FULLY_CONNECTED),
        *recipe.dynamic_wi8c_afp32(regex="down_proj", operation_name=FULLY_CONNECTED),
        *recipe.dynamic_wi8c_afp32(operation_name=LOOKUP),
    ]
    read = read_recipe(written(tmp_path, rules))
    assert read.encoding_of([UP], {MULTIPLIED}, (64, 256)) is INT4_BLOCKS
    assert read.encoding_of([DOWN], {MULTIPLIED}, (64, 256)) is INT8_ROWS
    # A tied table is stored once, as finely as one of its uses asks for.
    assert read.encoding_of(["embed.weight"], {MULTIPLIED, HEAD, LOOKED_UP}, (64, 256)) is INT8_ROWS
    assert (read.name, read.rounding) == ("recipe.json", RECIPES["int4"].rounding)


def test_what_is_left_alone_and_what_is_cast_is_read_too(tmp_path: Path) -> None:
    manager = recipe_manager.RecipeManager()
    manager.add_weight_only_config(".*", FULLY_CONNECTED, 16, algorithm_key="float_casting")
    rules = [
        *manager.get_quantization_recipe(),
        {"regex": "up_proj", "operation": "FULLY_CONNECTED", "algorithm_key": "no_quantize", "op_config": {}},
    ]
    read = read_recipe(written(tmp_path, rules))
    assert read.encoding_of([DOWN], {MULTIPLIED}, (64, 256)) is FLOAT16
    assert read.encoding_of([UP], {MULTIPLIED}, (64, 256)) is FLOAT32


def test_a_small_weight_may_be_left_alone(tmp_path: Path) -> None:
    read = read_recipe(written(tmp_path, recipe.dynamic_legacy_wi8_afp32()))
    assert read.encoding_of([UP], {MULTIPLIED}, (8, 64)) is FLOAT32
    assert read.encoding_of([UP], {MULTIPLIED}, (16, 64)) is INT8_ROWS


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (recipe.static_wi8_ai8(), "rule 1 asks for static activations"),
        (recipe.dynamic_wi4c_hr_afp32(), "rule 1 asks for the algorithm"),
        ([{**recipe.dynamic_wi8_afp32()[0], "regex": "("}], "is no regular expression"),
        ([{"operation": "*"}], "not a recipe"),
        ({"a": 1}, "not a recipe"),
    ],
)
def test_what_no_file_can_hold_is_said_by_rule(tmp_path: Path, rules: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_recipe(written(tmp_path, rules))


def test_what_is_no_recipe_is_said() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        recipe_of("nowhere.json")
    with pytest.raises(InputError, match="--quantize int3 is not known"):
        recipe_of("int3")
    assert recipe_of("int4") is RECIPES["int4"]
