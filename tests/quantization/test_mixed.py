"""Recipes of which some tables are stored finer."""

import pytest

from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import INT4_BLOCKS, INT8_ROWS
from autoconvert.quantization.mixed import Mixture, Table, coarser_than, finer_than, groups_of
from autoconvert.quantization.recipe import HEAD, LOOKED_UP, MULTIPLIED
from autoconvert.quantization.recipes import RECIPES

MIXTURE = Mixture(RECIPES["int4"], RECIPES["int8"])
TABLES = [
    Table("model.embed.weight", (64, 64), frozenset({LOOKED_UP})),
    *(
        Table(f"model.layers.{layer}.{block}.{name}.weight", (64, 64), frozenset({MULTIPLIED}))
        for layer in (0, 1)
        for block, names in (("attn", ("q", "k", "v")), ("mlp", ("up", "down")))
        for name in names
    ),
    Table("head.weight", (64, 64), frozenset({MULTIPLIED, HEAD})),
]
Q, K = "model.layers.0.attn.q.weight", "model.layers.0.attn.k.weight"


def test_what_is_named_is_stored_finer_and_nothing_else() -> None:
    recipe = MIXTURE.with_fine([Q])
    assert recipe.encoding_of([Q], {MULTIPLIED}, (64, 64)) is INT8_ROWS
    assert recipe.encoding_of([K], {MULTIPLIED}, (64, 64)) is INT4_BLOCKS
    assert recipe.encoding_of([f"{Q}.more"], {MULTIPLIED}, (64, 64)) is INT4_BLOCKS
    assert recipe.encoding_of([Q, K], {MULTIPLIED}, (64, 64)) is INT4_BLOCKS
    assert (recipe.name, recipe.rounding) == ("int4 with 1 tables in int8", RECIPES["int4"].rounding)
    assert MIXTURE.with_fine([]) is RECIPES["int4"]


def test_a_group_is_rounded_alone() -> None:
    recipe = MIXTURE.of_group([Q])
    assert recipe.encoding_of([Q], {MULTIPLIED}, (64, 64)) is INT4_BLOCKS
    assert recipe.encoding_of([K], {MULTIPLIED}, (64, 64)) is FLOAT32


def test_float32_is_finer_than_half_precision() -> None:
    mixture = finer_than(RECIPES["fp16"])
    assert mixture is not None
    assert mixture.with_fine([Q]).encoding_of([Q], {MULTIPLIED}, (64, 64)) is FLOAT32
    assert mixture.with_fine([Q]).encoding_of([K], {MULTIPLIED}, (64, 64)) is FLOAT16


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(4, [3, 2, 3, 2]), (3, [5, 5])],
)
def test_tables_of_a_block_move_together_or_those_of_a_layer(most: int, sizes: list[int]) -> None:
    groups = groups_of(TABLES, MIXTURE, most)
    # Embedding and head have eight bits in both recipes.
    assert [len(group) for group in groups] == sizes
    assert all(len({table.name.split(".")[2] for table in group}) == 1 for group in groups)


def test_recipes_are_in_an_order() -> None:
    assert [mixture and mixture.fine.name for mixture in map(finer_than, RECIPES.values())] == [
        None,
        "none",
        "fp16",
        "int8",
    ]
    assert [mixture and mixture.coarse.name for mixture in map(coarser_than, RECIPES.values())] == [
        "fp16",
        "int8",
        "int4",
        None,
    ]
