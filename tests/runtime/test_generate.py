import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from autoconvert.errors import InputError
from autoconvert.packaging.tokenizer import load_tokenizer, read_tokenizer
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.generate import generate
from tests.packaging.tiny_bundle import bundle, greedy, tiny_folder

PROMPT = "The cat sat on"


def visible(text: str) -> str:
    """`text` without what an incomplete character left, which the two decoders mark differently."""
    return text.replace("\ufffd", "")


def test_a_base_model_continues_the_text_greedily(tmp_path: Path) -> None:
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), chat=None)
    tokenizer = load_tokenizer(tiny_folder())
    pieces: list[str] = []
    said = generate(bundle(tmp_path / "model.litertlm", spec), PROMPT, max_tokens=8, on_text=pieces.append)
    assert visible(said) == visible(tokenizer.decode(greedy(tokenizer.encode(PROMPT), 8)))
    assert "".join(pieces) == said
    assert len(pieces) > 1


def test_a_model_with_a_chat_template_answers_the_turn(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder())
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=False
    )
    said = generate(bundle(tmp_path / "model.litertlm"), PROMPT, max_tokens=8)
    assert visible(said) == visible(tokenizer.decode(greedy(turn, 8)))


def test_a_model_without_stop_tokens_runs_to_the_limit(tmp_path: Path) -> None:
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), stops=(), chat=None)
    pieces: list[str] = []
    generate(bundle(tmp_path / "model.litertlm", spec), PROMPT, max_tokens=8, on_text=pieces.append)
    assert len(pieces) > 4


def test_an_empty_prompt_is_an_input_error(tmp_path: Path) -> None:
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), start=None, chat=None)
    with pytest.raises(InputError) as caught:
        generate(bundle(tmp_path / "model.litertlm", spec), "", max_tokens=2)
    assert "must not be empty" in caught.value.hint


def test_the_runtime_writes_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    temporary, output = tmp_path / "temporary", tmp_path / "output"
    temporary.mkdir()
    output.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    file = bundle(output / "model.litertlm")
    capfd.readouterr()
    generate(file, PROMPT, max_tokens=2)
    assert capfd.readouterr() == ("", "")
    assert list(temporary.iterdir()) == []
    assert list(output.iterdir()) == [file]


def test_a_prompt_longer_than_the_context_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long") as caught:
        generate(bundle(tmp_path / "model.litertlm"), "word " * 200, max_tokens=2)
    assert "96 tokens" in caught.value.hint


def test_a_runtime_that_gives_up_in_the_middle_of_an_answer_does_not_blame_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping:
        def pieces(self, *_: object) -> Iterator[str]:
            yield "a"
            raise RuntimeError("INTERNAL: Stable text shrunk compared to released.")

    file = bundle(tmp_path / "model.litertlm")
    monkeypatch.setattr("autoconvert.runtime.generate.open_remote_engine", lambda _: nullcontext(Stopping()))
    with pytest.raises(RuntimeFailed, match="after 1 pieces of text: INTERNAL") as caught:
        generate(file, PROMPT, max_tokens=2)
    assert "must not be empty" not in caught.value.hint and "--verify full" in caught.value.hint


def test_a_file_that_is_no_bundle_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a \.litertlm file"):
        generate(tiny_folder() / "model.tflite", PROMPT, max_tokens=2)
    with pytest.raises(InputError, match="No such file"):
        generate(tmp_path / "absent.litertlm", PROMPT, max_tokens=2)
