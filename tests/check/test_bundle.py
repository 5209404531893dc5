import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoconvert.check.bundle import EngineCheck, LastBits, check_bundle, spoken
from autoconvert.errors import CheckFailed
from autoconvert.packaging.chat_template import ChatTemplate
from autoconvert.packaging.tokenizer import TokenizerSpec, load_tokenizer, read_tokenizer
from autoconvert.runtime.engine import open_remote_engine
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.loaded_file import SignatureTypes, TensorType
from autoconvert.runtime.runner import Runner
from autoconvert.runtime.scoring import score_all
from autoconvert.runtime.stub import STUB
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


CONTEXT = 96


def runner_of(logits: Callable[[list[int]], torch.Tensor]) -> Runner:
    """Reads as a file would whose caches hold tokens."""
    slots: dict[int, int] = {}

    def run(signature: str, inputs: Mapping[str, Any], history: int) -> Mapping[str, Any]:
        seen = inputs["mask"][0, 0]
        for token, position, row in zip(inputs["tokens"][0], inputs["input_pos"], seen, strict=True):
            if row[position] == 0:
                slots[int(position)] = int(token)
        heard = [slots[int(position)] for position in np.flatnonzero(seen[-1] == 0)] if signature == "decode" else [0]
        return {"logits": logits(heard)[-1].numpy()}

    integers = np.dtype(np.int32)
    lengths = {"decode": 1, **{f"prefill_{length}": length for length in PREFILL}}
    types = {
        name: SignatureTypes(
            {
                "tokens": TensorType((1, length), integers),
                "input_pos": TensorType((length,), integers),
                "mask": TensorType((1, 1, length, CONTEXT), np.dtype(np.float32)),
            },
            {"logits": TensorType((1, 1, reference_logits([0]).shape[-1]), np.dtype(np.float32))},
        )
        for name, length in lengths.items()
    }
    return Runner(types, run, slots.clear)


@cache
def source() -> TokenizerSpec:
    return read_tokenizer(tiny_folder())


def checked(
    file: Path,
    logits: Callable[[list[int]], torch.Tensor],
    tokenizer: TokenizerSpec,
    *,
    tolerance: float,
    last_bits: LastBits | None = None,
) -> EngineCheck:
    prompts = spoken(runner_of(logits), CONTEXT, tokenizer, thorough=True)
    room = CONTEXT - 2 * min(PREFILL)
    return check_bundle(file, tokenizer, prompts, room=room, tolerance=tolerance, last_bits=last_bits)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle") / "model.litertlm")


def test_a_right_bundle_agrees_over_part_filled_full_and_chained_chunks(whole: Path) -> None:
    found = checked(whole, reference_logits, source(), tolerance=1e-3)
    assert found.worst < 1e-3
    assert found.answers > 0
    # The last token is held back, so a prompt one longer than a prefill length fills it.
    assert min(PREFILL) + 1 in found.lengths
    assert {length // 2 + 2 for length in PREFILL} <= set(found.lengths)
    assert max(found.lengths) > 2 * max(PREFILL)


def test_scores_are_the_log_probabilities_of_the_source(whole: Path) -> None:
    prompt, target = "Once upon a time there was", " a small model"
    with open_remote_engine(whole) as engine:
        (found,) = engine.ask(score_all, [prompt], target)
    ids = encode(prompt)
    # The runtime steps back before it scores: the last token takes the place of the one before it.
    heard = [*ids[:-2], ids[-1]]
    logits = reference_logits([*heard, *found.target]).log_softmax(-1)
    at = range(len(heard) - 1, len(heard) + len(found.target) - 1)
    wanted = sum(float(logits[i, token]) for i, token in zip(at, found.target, strict=True))
    assert sum(found.token_log_probabilities) == pytest.approx(wanted, abs=1e-3)
    assert list(found.target) == encode(target)[1:]


def test_one_prompt_for_a_large_model_has_a_full_chunk_and_a_part_filled_one() -> None:
    (said,) = spoken(runner_of(reference_logits), CONTEXT, source(), thorough=False)
    assert min(PREFILL) < len(said.ids) - 1 < 2 * min(PREFILL)
    ids = list(said.ids)
    for logits, heard in ((said.logits, ids), (said.logits_after_rewind, [*ids[:-2], ids[-1]])):
        assert torch.allclose(logits, reference_logits([*heard, *said.target])[len(heard) - 1 : -1], atol=1e-5)


def test_another_model_fails(whole: Path) -> None:
    def other(ids: list[int]) -> torch.Tensor:
        return reference_logits(ids).roll(1, dims=1)

    with pytest.raises(CheckFailed, match="log-probability"):
        checked(whole, other, source(), tolerance=0.1)


def test_a_small_error_fails_a_tight_tolerance_and_passes_a_loose_one(whole: Path) -> None:
    def warmer(ids: list[int]) -> torch.Tensor:
        return reference_logits(ids) / 1.01

    with pytest.raises(CheckFailed):
        checked(whole, warmer, source(), tolerance=1e-3)
    assert 1e-3 < checked(whole, warmer, source(), tolerance=0.5).worst < 0.5


def test_what_last_bits_explain_is_no_error_and_no_more_is(whole: Path) -> None:
    def warmer(ids: list[int]) -> torch.Tensor:
        return reference_logits(ids) / 1.01

    asked: list[tuple[int, int]] = []

    def last_bits(ids: Sequence[int], target: Sequence[int]) -> float:
        asked.append((len(ids), len(target)))
        return explained

    explained = 0.5
    found = checked(whole, warmer, source(), tolerance=1e-3, last_bits=last_bits)
    assert 1e-3 < found.worst < explained
    assert {length for length, _ in asked} <= set(found.lengths)
    explained = found.worst / 2
    with pytest.raises(CheckFailed, match="log-probability"):
        checked(whole, warmer, source(), tolerance=1e-3, last_bits=last_bits)


def test_a_lost_start_token_fails(tmp_path: Path) -> None:
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), start=None)
    with pytest.raises(CheckFailed, match="starts a text with token None") as caught:
        checked(bundle(tmp_path / "model.litertlm", spec), reference_logits, source(), tolerance=1e-3)
    assert "start token" in caught.value.hint


def test_another_chat_template_fails(tmp_path: Path) -> None:
    chat = ChatTemplate("{{ messages | length }}", None, None, False)
    other = bundle(tmp_path / "model.litertlm", dataclasses.replace(source(), chat=chat))
    with pytest.raises(CheckFailed, match="renders question 1 of a chat of plain turns as '1'"):
        checked(other, reference_logits, source(), tolerance=1e-3)


def test_another_tokenizer_fails(tmp_path: Path) -> None:
    parts = json.loads(source().section.content)
    vocabulary = parts["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    section = dataclasses.replace(source().section, content=json.dumps(parts).encode())
    other = bundle(tmp_path / "model.litertlm", dataclasses.replace(source(), section=section))
    with pytest.raises(CheckFailed, match="the runtime reads"):
        checked(other, reference_logits, source(), tolerance=1e-3)


@pytest.mark.parametrize(("stops", "says"), [((5,), "does not stop at"), ((1, 6, 5), "end no answer")])
def test_other_stop_tokens_fail(tmp_path: Path, stops: tuple[int, ...], says: str) -> None:
    other = bundle(tmp_path / "model.litertlm", dataclasses.replace(source(), stops=stops))
    with pytest.raises(CheckFailed, match=says):
        checked(other, reference_logits, source(), tolerance=1e-3)


@pytest.mark.parametrize("written", ["", "<s>", "{{ bos_token }}"])
def test_a_turn_starts_with_one_start_token_whatever_its_template_writes(tmp_path: Path, written: str) -> None:
    template = written + CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=template)
    tokenizer.save_pretrained(tmp_path)
    spec = read_tokenizer(tmp_path, trial=STUB)
    checked(bundle(tmp_path / "model.litertlm", spec), reference_logits, spec, tolerance=1e-3)
    assert any("template writes none" in note for note in spec.notes) == (written == "")


def test_a_prompt_beyond_the_context_is_refused_by_name(whole: Path) -> None:
    with open_remote_engine(whole) as engine, pytest.raises(RuntimeFailed, match="refused to score"):
        engine.ask(score_all, ["word " * 200], " more")
