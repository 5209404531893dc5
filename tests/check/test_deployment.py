"""A rounded file beside its model: what rounding makes of a deep model passes, and what is more than that fails."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoconvert.check.deployment import FileCheck, check_linked_file
from autoconvert.check.expected import Expected
from autoconvert.check.plan import plan
from autoconvert.errors import CheckFailed
from autoconvert.lowering.link import link
from autoconvert.quantization.recipes import RECIPES
from autoconvert.runtime.runner import Run, Runner, open_signatures
from tests.check.test_stepwise import CAPACITY, compiled

# Rounding changes tiny models by some 0.05 σ: for this recipe they are what deep ones are for int8.
STRICT = replace(RECIPES["int8"], rounding=1e-3)


def checked(folder: Path, spoiled: float) -> FileCheck:
    """Of a file whose logits are `spoiled` by so much, root mean square in their standard deviation."""
    source, made = compiled("llama", None)
    linked = link(list(made.graphs.values()), made.weights, source.weights, STRICT, folder / "file")

    def lying(run: Run) -> Run:
        def wrong(signature: str, inputs: Mapping[str, Any], history: int) -> Mapping[str, Any]:
            outputs = run(signature, inputs, history)
            noise = np.random.default_rng(0).standard_normal(made.vocabulary, np.float32)
            return {name: given + spoiled * given.std() * noise for name, given in outputs.items()}

        return wrong

    with open_signatures(linked.path) as (types, run, reset):
        runner = Runner(types, lying(run), reset)
        readings = plan(made, CAPACITY, source.parameters, thorough=False)
        return check_linked_file(linked.path, lambda: runner, made, readings, source.weights, STRICT, Expected(source))


def test_what_the_same_rounding_makes_of_the_model_passes(tmp_path: Path) -> None:
    found = checked(tmp_path, spoiled=0.0)
    assert found.rounding > STRICT.rounding
    assert "int8 changes them by" in str(found)


def test_what_rounding_does_not_give_fails(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="from those of the model rounded in the same way"):
        # Other last bits of its numbers change this model by 0.02 σ when it is rounded.
        checked(tmp_path, spoiled=0.2)
