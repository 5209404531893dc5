import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoconvert.check.bundle import EngineCheck, check_bundle, score, spoken
from autoconvert.errors import CheckFailed, InputError
from autoconvert.packaging.chat_template import read_chat_template
from autoconvert.packaging.tokenizer import load_tokenizer, read_tokenizer
from tests.packaging.tiny_bundle import (
    CHAT_TEMPLATE,
    PREFILL,
    bundle,
    byte_level_tokenizer,
    reference_logits,
    tiny_folder,
)


def encode(text: str) -> list[int]:
    ids: list[int] = load_tokenizer(tiny_folder()).encode(text)
    return ids


def encode_plain(text: str) -> list[int]:
    ids: list[int] = load_tokenizer(tiny_folder()).encode(text, add_special_tokens=False)
    return ids


def encode_turn(text: str) -> list[int]:
    ids: list[int] = load_tokenizer(tiny_folder()).apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    return ids


def checked(
    file: Path,
    logits: Callable[[list[int]], torch.Tensor],
    *,
    tolerance: float,
    encode_turn: Callable[[str], list[int]] | None = None,
) -> EngineCheck:
    prompts = spoken(PREFILL, 96, encode, encode_plain, lambda ids, count: logits(ids)[-count:])
    return check_bundle(file, prompts, tolerance=tolerance, encode_turn=encode_turn)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle") / "model.litertlm")


def test_a_right_bundle_agrees_over_part_filled_full_and_chained_chunks(whole: Path) -> None:
    found = checked(whole, reference_logits, tolerance=1e-3, encode_turn=encode_turn)
    assert found.worst < 1e-3
    assert found.answers > 0
    # The last token is held back, so a prompt one longer than a prefill length fills it.
    assert min(PREFILL) + 1 in found.lengths
    assert {length // 2 + 2 for length in PREFILL} <= set(found.lengths)
    assert max(found.lengths) > 2 * max(PREFILL)


def test_scores_are_the_log_probabilities_of_the_source(whole: Path) -> None:
    (found,) = score(whole, ["Once upon a time there was"], [" a small model"])
    logits = reference_logits([*found.context, *found.target]).log_softmax(-1)
    at = range(len(found.context) - 1, len(found.context) + len(found.target) - 1)
    wanted = sum(float(logits[i, token]) for i, token in zip(at, found.target, strict=True))
    assert sum(found.token_log_probabilities) == pytest.approx(wanted, abs=1e-3)
    assert list(found.target) == encode(" a small model")[1:]


def test_another_model_fails(whole: Path) -> None:
    def other(ids: list[int]) -> torch.Tensor:
        return reference_logits(ids).roll(1, dims=1)

    with pytest.raises(CheckFailed, match="log-probability"):
        checked(whole, other, tolerance=0.1)


def test_a_small_error_fails_a_tight_tolerance_and_passes_a_loose_one(whole: Path) -> None:
    def warmer(ids: list[int]) -> torch.Tensor:
        return reference_logits(ids) / 1.01

    with pytest.raises(CheckFailed):
        checked(whole, warmer, tolerance=1e-3)
    assert 1e-3 < checked(whole, warmer, tolerance=0.5).worst < 0.5


def test_a_lost_start_token_fails(tmp_path: Path) -> None:
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), start=None)
    with pytest.raises(CheckFailed, match="tokenizer") as caught:
        checked(bundle(tmp_path / "model.litertlm", spec), reference_logits, tolerance=1e-3)
    assert "start token" in caught.value.hint


def test_another_chat_template_fails(whole: Path) -> None:
    other = byte_level_tokenizer(prepends_start=True, chat_template="{{ messages[0].content }}")

    def other_turn(text: str) -> list[int]:
        ids: list[int] = other.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        return ids

    with pytest.raises(CheckFailed, match="renders a user's turn"):
        checked(whole, reference_logits, tolerance=1e-3, encode_turn=other_turn)


@pytest.mark.parametrize("written", ["", "<s>", "{{ bos_token }}"])
def test_a_turn_starts_with_one_start_token_whatever_its_template_writes(tmp_path: Path, written: str) -> None:
    template = written + CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=template)
    chat, notes = read_chat_template(tokenizer, 0)
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), chat=chat)

    def turn(text: str) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return ids

    file = bundle(tmp_path / "model.litertlm", spec)
    checked(file, reference_logits, tolerance=1e-3, encode_turn=turn)
    assert any("template writes none" in note for note in notes) == (written == "")


def test_a_prompt_beyond_the_context_is_an_input_error(whole: Path) -> None:
    with pytest.raises(InputError, match="refused to score"):
        score(whole, ["word " * 200], [" more"])
