"""What is settled before anything is traced."""

import io
import json
from pathlib import Path

import pytest

from autoconvert.driver.ready import tokenizer_of
from autoconvert.driver.settings import Settings, choose
from autoconvert.errors import InputError
from autoconvert.source.source import load_source
from tests.packaging.tiny_bundle import byte_level_tokenizer, tiny_llama

CODE = "raise SystemExit('the code of the tokenizer ran')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = byte_level_tokenizer(prepends_start=True)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def bundle() -> Settings:
    return choose(None, context=32, prefill=(4,), quantize="none", formats=("litertlm",), verify="quick")


def test_code_of_a_tokenizer_is_never_asked_about_and_never_run_untrusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenization_mine.py").write_text(CODE)
    (folder / "tokenizer.json").rename(folder / "vocab.txt")
    path = folder / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["tokenization_mine.Mine", None]}
    path.write_text(json.dumps({"tokenizer_class": "Mine", "auto_map": auto_map}))
    # Whoever asks is answered yes.
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(InputError, match="needs Python code of its own") as caught:
        tokenizer_of(load_source(folder), bundle())
    assert "--trust-remote-code" in caught.value.hint


def test_tokens_are_held_against_the_rows_of_the_embedding(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [1, 151643]}))
    tokenizer = tokenizer_of(load_source(folder), bundle())
    assert tokenizer is not None and 151643 not in tokenizer.stops
    assert any("151643" in note for note in tokenizer.notes)


def test_a_tokenizer_is_not_looked_for_where_no_bundle_is_asked_for(tmp_path: Path) -> None:
    tiny_llama(97).save_pretrained(tmp_path)
    alone = choose(None, context=32, prefill=(4,), quantize="none", formats=("tflite",), verify="quick")
    assert tokenizer_of(load_source(tmp_path), alone) is None
