"""A sample of the coverage matrix: types that need different blocks, up to the checked stateful graph."""

import pytest
from examine import examine

# The whole matrix is `python benchmarks/coverage`.
SAMPLE = (
    "apertus",
    "bart",
    "bert",
    "cohere_compass_text",
    "ctrl",
    "exaone4",
    "gemma",
    "gemma3",
    "gemma4_text",
    "gpt2",
    "llama",
    "marian",
    "olmo",
    "opt",
    "pegasus",
)


@pytest.mark.parametrize("model_type", SAMPLE)
def test_type_is_right(model_type: str) -> None:
    outcome = examine(model_type, "graph")
    assert (outcome.status, outcome.reason) == ("right", "")
    assert outcome.passed == ("trace", "recognise", "state")
    assert outcome.blocks["attention"] > 0


def test_data_dependent_control_flow_is_refused_and_named() -> None:
    outcome = examine("blt", "graph")
    assert outcome.status == "refused"
    assert "data-dependent" in outcome.reason
    assert "modeling_blt.py:" in outcome.reason


def test_what_is_no_model_of_tokens_is_said() -> None:
    assert examine("musicgen", "graph").status == "not buildable"
