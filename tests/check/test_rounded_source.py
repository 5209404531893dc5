"""The source rounded as a file is: the numbers of the file itself, and other numbers than the source's own."""

from pathlib import Path

import pytest

from autoconvert.check.deployment import read
from autoconvert.check.parity import distance, reference_of
from autoconvert.check.readings import from_the_start
from autoconvert.check.rounded_source import rounded_reference
from autoconvert.driver.convert import convert
from autoconvert.quantization.recipes import RECIPES
from autoconvert.runtime.runner import open_file
from autoconvert.source.source import load_source
from tests.driver.test_convert import noisy
from tests.source.tiny import CONFIGS, build

CAPACITY = 64


@pytest.mark.parametrize("recipe", ["int8", "fp16", "int4"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mixtral"])
def test_it_gives_the_files_own_numbers(name: str, recipe: str, tmp_path: Path) -> None:
    folder = noisy(build(CONFIGS[name]))
    made = convert(folder, tmp_path / "made", context=CAPACITY, quantize=recipe, formats=("tflite",), verify="off")
    source = load_source(folder)
    with open_file(made.files["tflite"]) as runner:
        text = from_the_start(runner.prefill_lengths, CAPACITY, runner.vocabulary)
        file = read(runner, text)
    with reference_of(source) as reference:
        exact = reference(text.tokens, text.compared)
    with rounded_reference(source, RECIPES[recipe]) as reference:
        rounded = reference(text.tokens, text.compared)
    assert float(distance(file, exact).max()) > 1e-4
    assert float(distance(file, rounded).max()) < 1e-5
