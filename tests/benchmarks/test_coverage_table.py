"""The generated table: what a row says, the totals, and patterns that nothing needs."""

import dataclasses
import json

from multiply_adds import Growth
from outcome import Outcome, brief
from table import render, totals

PATTERNS = ("rms_norm", "rotary", "unused")
OUTCOMES = (
    Outcome(
        "llama",
        "right",
        passed=("trace", "fuse", "state", "lower", "run", "parity", "int8"),
        blocks={"norm": 5, "feed_forward": 2},
        patterns={"rms_norm": 5, "rotary": 4},
        distance=2.71e-6,
        multiply_adds=Growth(1000, 1200, ()),
    ),
    Outcome("blt", "refused", "item in model (modeling_blt.py:909) | reads a value", passed=()),
    Outcome("gpt2", "wrong", "0.5 σ at position 3", passed=("trace", "fuse", "state", "lower", "run"), distance=0.5),
    Outcome("musicgen", "not buildable", "takes codebooks"),
)


def rows() -> dict[str, list[str]]:
    lines = [line for line in render(OUTCOMES, PATTERNS, "transformers 1").splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in ([cell.strip() for cell in line.split(" | ")] for line in lines)}


def row(model_type: str) -> list[str]:
    return rows()[f"| {model_type}"]


def test_a_right_type_has_its_distance_work_and_blocks() -> None:
    assert row("llama")[1:9] == ["✓", "✓", "✓", "✓", "✓", "2.7e-06", "✓", "1,000 → 1,200"]
    assert row("llama")[9] == "2 feed-forward, 5 norm"


def test_a_model_traced_as_a_step_is_marked() -> None:
    stepped = dataclasses.replace(OUTCOMES[0], is_of_steps=True)
    assert "| llama | ✓ step | ✓ |" in render([stepped], PATTERNS, "")


def test_one_type_that_was_not_run_from_a_file_makes_it_a_table_of_graphs() -> None:
    graph_only = Outcome("qwen3", "right", passed=("trace", "fuse", "state"))
    assert "`python benchmarks/coverage`" in render(OUTCOMES, PATTERNS, "")
    assert "`python benchmarks/coverage --stage graph`" in render([*OUTCOMES, graph_only], PATTERNS, "")


def test_a_refusal_stops_at_its_step_and_says_why() -> None:
    assert row("blt")[1:8] == ["–", "", "", "", "", "", ""]
    assert "refused: item in model (modeling_blt.py:909) \\| reads a value" in render(OUTCOMES, PATTERNS, "")


def test_a_wrong_file_is_marked() -> None:
    assert row("gpt2")[6] == "✗ 5.0e-01"


def test_a_type_whose_default_conversion_fails_is_marked() -> None:
    passed = ("trace", "fuse", "state", "lower", "run", "parity")
    (line,) = (
        line
        for line in render([Outcome("zaya", "wrong", "0.012 σ off", passed)], PATTERNS, "").splitlines()
        if line.startswith("| zaya")
    )
    assert line.split(" | ")[6:8] == ["✓", "✗"]


def test_rows_are_sorted_and_totalled() -> None:
    types = [name for name in rows() if name.removeprefix("| ") in {outcome.model_type for outcome in OUTCOMES}]
    assert types == ["| blt", "| gpt2", "| llama", "| musicgen"]
    assert totals(OUTCOMES) == "4 types: 1 right, 1 refused, 1 wrong, 1 not buildable"


def test_a_pattern_that_matched_nowhere_is_listed() -> None:
    document = render(OUTCOMES, PATTERNS, "")
    assert "- unused" in document.splitlines()
    assert "- rotary" not in document.splitlines()
    assert "| rms_norm | 1 | 5 |" in document.splitlines()


def test_an_outcome_survives_its_json() -> None:
    for outcome in OUTCOMES:
        assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_a_reason_names_the_file_and_not_the_machine() -> None:
    message = "add in model.layers.0 (/a/b-c/site-packages/t/modeling_x.py:12: y = f(a + b, (c)) uses\n a mask."
    assert brief(message) == "add in model.layers.0 (modeling_x.py:12) uses a mask."
    assert brief("add (/a/b/modeling_x.py:12: y = f(a) + b) is left.") == "add (modeling_x.py:12) is left."
    two = "mul (/b/modeling_x.py:1: y = f(a)) is left.\nToken by token: add (/b/modeling_x.py:2: z = g() is left."
    assert brief(two) == "mul (modeling_x.py:1) is left. Token by token: add (modeling_x.py:2) is left."
    assert brief("add (/b/modeling_x.py:2: z = g(") == "add (modeling_x.py:2)"
    assert brief("It fails.", "It happens at /a/modeling_x.py:7: if length:") == "It fails (modeling_x.py:7)"
