"""`autoconvert check FILE MODEL` as a person types it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import autoconvert
from autoconvert.check.verdict import LAYERS, Verdict
from autoconvert.cli.check import app
from autoconvert.report.verdicts import said_of
from tests.packaging.tiny_bundle import tiny_llama


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["passed", "passed"], "The file is the model, as far as it was checked"),
        (["not checked", "passed"], "The file is the model, as far as it was checked; not checked: contract"),
        (["failed", "not checked"], "The file is not the model: contract failed; not checked: tokenizer"),
        (["not checked", "not checked"], "Nothing could be checked"),
    ],
)
def test_the_last_line_is_the_verdict(outcomes: Sequence[str], said: str) -> None:
    layers = zip(LAYERS, outcomes, strict=False)
    lines = [str(line) for line in said_of([Verdict(layer, outcome, "why") for layer, outcome in layers])]  # type: ignore[arg-type]
    assert lines[-1] == said
    assert [line.split("  ")[0] for line in lines[:2]] == ["contract", "tokenizer"]


def test_it_prints_a_line_a_layer_and_says_by_its_exit_code_whether_one_failed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tiny_llama(64).save_pretrained(model)
    bundle = autoconvert.convert(model, tmp_path / "out", prefill=(16,), formats=("tflite",), verify="off")
    right = CliRunner().invoke(app, [str(bundle.files["tflite"]), str(model)])
    assert (right.exit_code, right.stderr) == (0, "")
    lines = right.stdout.split("\n\n")[1].splitlines()
    assert [line.split("  ")[0] for line in lines] == list(LAYERS)
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(bundle.files["tflite"].read_bytes()[:-100])
    wrong = CliRunner().invoke(app, [str(cut), str(model)])
    assert (wrong.exit_code, wrong.stderr) == (4, "")
    assert "contract failed" in wrong.stdout and "cut short" in wrong.stdout


@pytest.mark.parametrize(("name", "said"), [("absent.tflite", "no such file"), ("x.task", "not supported yet")])
def test_what_is_no_file_of_a_model_is_bad_input(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.task").write_bytes(b"PK\3\4")
    result = CliRunner().invoke(app, [str(tmp_path / name), "demo"])
    assert result.exit_code == 2
    assert said in result.stderr and "hint: " in result.stderr


def test_an_unknown_model_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_text("none")
    result = CliRunner().invoke(app, [str(tmp_path / "model.tflite"), str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert "no such folder" in result.stderr
