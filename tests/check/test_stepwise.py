"""A linked file run step by step: its numbers are the runtime's of an unquantized file, whatever it stores."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from autoconvert.check.deployment import calls_of, read
from autoconvert.check.parity import distance
from autoconvert.check.readings import Reading, at_the_end, from_the_start
from autoconvert.check.step_weights import StepWeights
from autoconvert.check.stepwise import Stepwise, open_stepwise
from autoconvert.driver.compile import Stages, compile_model
from autoconvert.driver.settings import choose
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.link import link
from autoconvert.quantization.recipes import RECIPES
from autoconvert.report.progress import Silent, Timeline
from autoconvert.runtime.runner import open_file
from autoconvert.runtime.stepwise import StepwiseFile
from autoconvert.source.source import Source, load_source
from autoconvert.system.remote import remote
from tests.driver.test_convert import noisy
from tests.source.tiny import CONFIGS, build

CAPACITY = 64
LENGTHS = (30, 20)


def compiled(name: str, lengths: Sequence[int] | None = LENGTHS) -> tuple[Source, Compiled]:
    source = load_source(noisy(build(CONFIGS[name])))
    settings = choose(
        source.config, context=CAPACITY, prefill=lengths, quantize="int8", formats=("tflite",), verify="off"
    )
    return source, compile_model(source, settings, Timeline(Silent()), Stages()).compiled


def logits(path: Path, source: Source, made: Compiled, readings: list[Reading]) -> tuple[list[torch.Tensor], ...]:
    """Step by step, and as the file is."""
    with open_file(path) as runner, open_stepwise(path, StepWeights(made.weights, source.weights)) as stepwise:
        outputs = stepwise.run([calls_of(reading, stepwise.signatures()) for reading in readings])
        plain = [read(runner, reading) for reading in readings]
    steps = [
        torch.stack([torch.from_numpy(output["logits"]).reshape(-1) for output in chain if "logits" in output])
        for chain in outputs
    ]
    return steps, plain


@pytest.mark.parametrize("lengths", [LENGTHS, None], ids=["fixed", "any"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mixtral"])
def test_whatever_the_weights_are_stored_as_the_sources_decide(
    name: str, lengths: Sequence[int] | None, tmp_path: Path
) -> None:
    source, made = compiled(name, lengths)
    vocabulary, lengths = made.vocabulary, made.prefill
    readings = [from_the_start(lengths, CAPACITY, vocabulary), *at_the_end(lengths, CAPACITY, vocabulary)]
    found = {}
    for recipe in RECIPES.values():
        linked = link(list(made.graphs.values()), made.weights, source.weights, recipe, tmp_path / recipe.name)
        found[recipe.name] = logits(linked.path, source, made, readings)
    exact = found["none"][1]
    for stored_as, (steps, plain) in found.items():
        # Four bits move random weights of so few columns further than any model's.
        limit = 2.5 if stored_as == "int4" else 0.5
        assert max(float(distance(ours, wanted).max()) for ours, wanted in zip(steps, exact, strict=True)) < 1e-5
        assert max(float(distance(ours, wanted).max()) for ours, wanted in zip(plain, exact, strict=True)) < limit


def test_a_weight_is_read_once_however_many_calls_there_are(tmp_path: Path) -> None:
    source, made = compiled("llama", None)
    linked = link(list(made.graphs.values()), made.weights, source.weights, RECIPES["int8"], tmp_path / "file")
    reading = from_the_start((), CAPACITY, made.vocabulary, to_the_end=True)
    asked: Counter[str] = Counter()

    class Counted(Stepwise):
        def _product(self, name: str, x: torch.Tensor) -> torch.Tensor:
            asked[name] += 1
            return super()._product(name, x)

    with remote(StepwiseFile, str(linked.path), list(made.weights)) as loaded:
        stepwise = Counted(linked.path, loaded, StepWeights(made.weights, source.weights))
        stepwise.run([calls_of(reading, stepwise.signatures())])
    assert len(reading.pieces) > 8
    # Where signatures compute queries, keys and values in another order, a value may be late.
    assert {count for name, count in asked.items() if "mlp" in name or "lm_head" in name} == {1}


def test_chains_know_nothing_of_each_other(tmp_path: Path) -> None:
    source, made = compiled("llama")
    linked = link(list(made.graphs.values()), made.weights, source.weights, RECIPES["int8"], tmp_path / "file")
    reading = from_the_start(LENGTHS, CAPACITY, made.vocabulary)
    (alone,), _ = logits(linked.path, source, made, [reading])
    (first, second), _ = logits(linked.path, source, made, [reading, reading])
    assert torch.equal(alone, first) or float(distance(first, alone).max()) < 1e-5
    assert float(distance(second, first).max()) < 1e-5
