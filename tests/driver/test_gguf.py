"""GGUF files the whole way: to a file that says what the model says, and to a bundle with the tokenizer in it."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from typer.testing import CliRunner

import autoconvert
from autoconvert.check.parity import distance, random_tokens
from autoconvert.check.verdict import LAYERS
from autoconvert.cli import COMMANDS
from autoconvert.driver.ready import target_folder
from autoconvert.runtime.runner import open_file
from autoconvert.source.source import load_source
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer, tiny_llama
from tests.source.gguf_files import loaded, write_gguf
from tests.source.tiny import build, llama

CONTEXT, PREFILL = 40, (12, 5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama in Q8_0 with its tokenizer."""
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)
    path = tmp_path_factory.mktemp("model") / "tiny-Q8_0.gguf"
    return write_gguf(tiny_llama(len(tokenizer)), path, GGMLQuantizationType.Q8_0, tokenizer=tokenizer)


def test_a_file_gives_the_logits_of_the_model_that_transformers_loads(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = autoconvert.convert(file, tmp_path, quantize="none", context=CONTEXT, prefill=PREFILL, formats=("tflite",))
    module = loaded(file, monkeypatch)
    tokens = random_tokens(CONTEXT, module.config.vocab_size)
    with torch.no_grad():
        expected = module(torch.tensor([tokens])).logits[0]
    with open_file(bundle.files["tflite"]) as runner:
        logits = torch.stack([runner.logits_at(tokens, position) for position in range(CONTEXT)])
    assert float(distance(logits, expected).max()) < 1e-4
    assert any(note.startswith("GGUF: tiny-Q8_0.gguf has 16 tensors of Q8_0") for note in bundle.report.notes)
    receipt = bundle.report.receipt
    assert (receipt.source.kind, receipt.source.name) == ("file", "tiny-Q8_0.gguf")
    assert receipt.tensors["blk.0.ffn_up.weight"].dtype == "Q8_0"


def test_a_bundle_has_the_files_tokenizer_and_passes_every_check(file: Path, tmp_path: Path) -> None:
    bundle = autoconvert.convert(file, tmp_path, context=CONTEXT, prefill=PREFILL)
    assert all(check.passed for check in bundle.report.checks)
    verdicts = autoconvert.check_file(bundle.files["litertlm"], file)
    assert {verdict.layer for verdict in verdicts if verdict.outcome == "passed"} >= set(LAYERS) - {"window"}, verdicts


def test_files_go_beside_the_model_by_its_name_and_never_among_its_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.gguf").write_bytes(file.read_bytes())
    for model in ("tiny", "tiny/tiny.gguf"):
        assert target_folder(load_source(model), None) == Path("tiny-litert")
    assert target_folder(load_source(file), None) == Path("tiny-Q8_0")


def test_without_a_tokenizer_there_is_a_tflite_and_the_reason_why_no_bundle(tmp_path: Path) -> None:
    path = write_gguf(build(llama()), tmp_path / "tiny.gguf")
    with pytest.raises(autoconvert.InputError, match=r"tiny\.gguf describes no tokenizer") as error:
        autoconvert.convert(path, tmp_path / "out")
    assert "--format tflite" in error.value.hint
    bundle = autoconvert.convert(path, tmp_path / "out", context=16, prefill=(4,), formats=("tflite",), verify="off")
    assert any("no bundle can be written: tiny.gguf describes no tokenizer" in note for note in bundle.report.notes)


@pytest.mark.parametrize("command", ["plan", "explain"])
def test_a_file_is_a_model_for_every_command(command: str, file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(COMMANDS[command], [str(file)])
    assert result.exit_code == 0, result.stderr
    assert "attention" in result.stdout
