"""The recipes that `--quantize` offers: tables of rows are stored smaller, everything else stays float32."""

from collections.abc import Iterable

from autoconvert.quantization.choices import SUMMARIES
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.uniform import INT4_BLOCKS, INT8_ROWS
from autoconvert.quantization.recipe import MULTIPLIED, Recipe, RecipeRule

# The most that storing weights in so many bits may change the logits, in σ, root mean square.
ROUNDING = {32: 0.0, 16: 2e-2, 8: 0.25, 4: 0.6}


def made_of(name: str, summary: str, rules: Iterable[RecipeRule]) -> Recipe:
    """The recipe of these rules, which may change the logits as much as its smallest encoding does."""
    rules = tuple(rules)
    return Recipe(name, summary, rules, max((ROUNDING[rule.encoding.bits] for rule in rules), default=0.0))


UNQUANTIZED = made_of("none", SUMMARIES["none"], ())

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        UNQUANTIZED,
        made_of("fp16", SUMMARIES["fp16"], [RecipeRule(FLOAT16)]),
        made_of("int8", SUMMARIES["int8"], [RecipeRule(INT8_ROWS)]),
        # What no block divides is int8, and so is what is looked up, or gives the logits.
        made_of(
            "int4", SUMMARIES["int4"], [RecipeRule(INT4_BLOCKS, uses=frozenset({MULTIPLIED})), RecipeRule(INT8_ROWS)]
        ),
    )
}

# Each of their encodings once.
ENCODINGS: tuple[Encoding, ...] = tuple(
    dict.fromkeys((FLOAT32, *(rule.encoding for recipe in RECIPES.values() for rule in recipe.rules)))
)
