"""After every pass the graph executes in PyTorch and gives the numbers of the module."""

import pytest

from autoconvert.ir.program import Program
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Pass
from tests import models
from tests.driver.test_convert import SHAPES
from tests.models import tiny_llama


@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_gives_the_modules_logits_after_every_pass(shape: str) -> None:
    module = tiny_llama(**SHAPES[shape])
    tokens = models.random_ids(vocabulary=97)
    expected = models.logits_of_source(module, tokens)
    seen: list[str] = []

    def compare(step: Pass, program: Program) -> None:
        seen.append(step.name)
        models.assert_same(models.execute(program, module, tokens)["logits"][0], expected)

    program = models.rewrite(module, after=compare)
    assert seen == [step.name for step in PASSES]
    models.assert_chunks_give_what_the_model_gives(program, module, 97)
