"""Outputs that nobody reads, places written with ~, folders in the way: a clear end, never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from autoconvert.cli import COMMANDS
from autoconvert.driver.ready import target_folder
from autoconvert.source.source import load_source
from tests.source.tiny import build, llama

COMMAND = f"{sys.executable} -m autoconvert"


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run by a shell that ends with the code of the first command of a pipe."""
    script = f"set -o pipefail; {command}"
    return subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "tiny"
    build(llama()).save_pretrained(folder)
    return folder


def test_a_conversion_whose_output_nobody_reads_ends_without_a_word_and_leaves_nothing(
    model: Path, tmp_path: Path
) -> None:
    ran = shell(f"{COMMAND} {model} --format tflite -o out --verify off --no-cache | head -1", tmp_path)
    assert (ran.returncode, ran.stderr) == (141, "")
    assert len(ran.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), ("<&-", 0), (">&- 2>&- <&-", 0)])
def test_a_command_may_be_started_without_its_streams(closed: str, code: int, tmp_path: Path) -> None:
    ran = shell(f"{COMMAND} patterns {closed}", tmp_path)
    assert (ran.returncode, ran.stderr) == (code, "")


def test_a_failure_keeps_its_code_where_nobody_can_be_told(tmp_path: Path) -> None:
    assert shell(f"{COMMAND} ./nowhere >&- 2>&-", tmp_path).returncode == 2


def test_the_home_folder_may_be_written_as_a_shell_does_not_expand_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert target_folder(load_source(model), "~/x") == tmp_path / "x"


def test_a_home_folder_that_is_nobody_s_is_bad_input(model: Path) -> None:
    result = CliRunner().invoke(COMMANDS["plan"], [str(model), "--format", "tflite", "-o", "~no-such-user/x"])
    assert result.exit_code == 2 and "~no-such-user" in result.stderr
    assert CliRunner().invoke(COMMANDS["plan"], ["~no-such-user/x"]).exit_code == 2


def test_the_default_folder_is_never_the_one_that_the_model_came_from(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(model)
    monkeypatch.chdir(model.parent)
    assert target_folder(source, None) == Path("tiny-litert")
    monkeypatch.chdir(tmp_path)
    assert target_folder(source, None) == Path("tiny")
    (tmp_path / "tiny").symlink_to(model)
    assert target_folder(source, None) == Path("tiny-litert")


@pytest.mark.parametrize("name", ["model.tflite", "report.json"])
def test_a_folder_in_the_way_of_a_file_is_told_before_anything_is_begun(name: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    result = CliRunner().invoke(COMMANDS["plan"], [str(model), "--format", "tflite", "-o", str(tmp_path / "out")])
    assert result.exit_code == 5
    assert f"{name}: a folder of that name is in the way" in result.stderr


@pytest.mark.parametrize("value", [2.0, "2", [[2]], [2, 2.5], True, {"id": 2}, 1 << 40])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_plan_names_file_and_field_of_a_token_id_that_is_none(file: str, value: object, tmp_path: Path) -> None:
    build(llama()).save_pretrained(tmp_path)
    path = tmp_path / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, "eos_token_id": value}))
    result = CliRunner().invoke(COMMANDS["plan"], [str(tmp_path)])
    assert result.exit_code == 2, result.stderr
    assert file in result.stderr
    assert "eos_token_id" in result.stderr


def test_a_plan_refuses_what_a_conversion_refuses_a_missing_tokenizer(model: Path) -> None:
    result = CliRunner().invoke(COMMANDS["plan"], [str(model)])
    assert result.exit_code == 2 and "has no tokenizer" in result.stderr


def test_a_plan_refuses_what_a_conversion_refuses_a_missing_tensor(tmp_path: Path) -> None:
    build(llama()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("model.norm.weight")
    save_file(tensors, path)
    result = CliRunner().invoke(COMMANDS["plan"], [str(tmp_path), "--format", "tflite"])
    assert result.exit_code == 2 and "model.norm.weight: the checkpoint has no tensor" in result.stderr
