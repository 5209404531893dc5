"""What each way to store a model costs it, beside the quantizer's own: `python benchmarks/quantization.py [MODEL]`.

Every row is a file, graded on the same text as a conversion grades it: the mean divergence of its next tokens from the
model's, how often both put the same token first, and its perplexity. The quantizer's own files are what
ai-edge-quantizer makes of our file without quantization, by its own recipes; of four bits those that leave embedding
and head at eight, as ours do, so that sizes are equal.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from ai_edge_quantizer import qtyping, quantizer, recipe
from rich.console import Console
from rich.table import Table

from autoconvert.check.expected import Expected
from autoconvert.check.grade import Grade, Grading, grade
from autoconvert.driver.convert import convert
from autoconvert.driver.failure import Asked
from autoconvert.driver.graded_text import text_to_grade
from autoconvert.driver.ready import ready
from autoconvert.quantization.recipes import RECIPES
from autoconvert.runtime.runner import open_file
from autoconvert.source.source import load_source

OURS = tuple(name for name, each in RECIPES.items() if not each.exact)
# The tensor that gives the logits, in tied models the embedding.
_HEAD = "lm_head|embed"


@dataclass(frozen=True)
class Row:
    """A file, and its grade; `size` in bytes."""

    made_by: str
    scheme: str
    size: int
    grade: Grade


def peer_recipes() -> dict[str, list[dict[str, Any]]]:
    """The quantizer's recipes of the sizes that ours have."""
    eight = recipe.dynamic_wi8_afp32()
    four = recipe.dynamic_wi4b32_afp32(operation_name=qtyping.TFLOperationName.FULLY_CONNECTED)
    head = recipe.dynamic_wi8c_afp32(regex=_HEAD, operation_name=qtyping.TFLOperationName.FULLY_CONNECTED)
    return {"dynamic_wi8_afp32": eight, "dynamic_wi4b32_afp32, int8 embedding and head": eight + four + head}


def rows(model: str, folder: Path, context: int) -> Iterator[Row]:
    """Each file's row as it is graded."""
    source = load_source(model)
    prepared = ready(source, Asked(model, "int8", context, None, ("litertlm",), "quick"))
    assert prepared.tokenizer is not None
    tokens = text_to_grade(source, prepared.tokenizer, Grading(), prepared.settings)
    expected = Expected(source).of_text(tokens)

    def graded(made_by: str, scheme: str, file: Path) -> Row:
        with open_file(file) as runner:
            runner.reset()
            found = grade(tokens, expected, map(runner.decode, tokens), 8 * file.stat().st_size / source.parameters)
        return Row(made_by, scheme, file.stat().st_size, found)

    for name in ("none", *OURS):
        made = convert(model, folder / name, quantize=name, context=context, formats=("tflite",), verify="off")
        file = made.files["tflite"]
        yield graded("autoconvert", name, file)
    for name, rules in peer_recipes().items():
        file = folder / f"peer-{len(rules)}.tflite"
        quantized = quantizer.Quantizer(str(folder / "none" / "model.tflite"), rules).quantize().quantized_model
        file.write_bytes(bytes(quantized))
        yield graded("ai-edge-quantizer", name, file)


def main(
    model: Annotated[str, typer.Argument(help="What to convert, as for autoconvert.")] = "demo",
    context: Annotated[int, typer.Option(help="Most tokens of the text.")] = 512,
) -> None:
    """Grades a file of each scheme, ours and the quantizer's."""
    columns = ("by", "scheme", "MB", "bits a weight", "KL", "same token", "perplexity")
    shown = Table(*columns, title=f"{model}, graded on the text that ships")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(model, Path(folder), context):
            found = row.grade
            figures = (f"{row.size / 1e6:.2f}", f"{found.bits:.2f}", f"{found.divergence:.4f}", f"{found.same:.1%}")
            shown.add_row(row.made_by, row.scheme, *figures, f"{found.perplexity:.3f}")
    Console(width=120).print(shown)


if __name__ == "__main__":
    typer.run(main)
