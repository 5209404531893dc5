"""The recipes that `--quantize` offers: tables of rows are stored smaller, everything else stays float32."""

from autoconvert.quantization.choices import SUMMARIES
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float16 import FLOAT16
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.encodings.int8_rows import INT8_ROWS
from autoconvert.quantization.recipe import Recipe, RecipeRule

UNQUANTIZED = Recipe("none", SUMMARIES["none"])

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        UNQUANTIZED,
        Recipe("fp16", SUMMARIES["fp16"], (RecipeRule(FLOAT16),), rounding=2e-2),
        Recipe("int8", SUMMARIES["int8"], (RecipeRule(INT8_ROWS),), rounding=0.25),
    )
}

# Each of their encodings once.
ENCODINGS: tuple[Encoding, ...] = tuple(
    dict.fromkeys((FLOAT32, *(rule.encoding for recipe in RECIPES.values() for rule in recipe.rules)))
)
