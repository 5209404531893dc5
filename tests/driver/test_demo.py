"""The demo, converted: quantization judged on a model that has learnt something."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import autoconvert
from autoconvert.packaging.tokenizer import load_tokenizer
from autoconvert.runtime.generate import generate
from autoconvert.runtime.runner import Runner, open_file

CONTEXT = 256
WINDOWS = 8
PROMPTS = ("In the beginning", "And the LORD spake unto Moses", "Blessed are")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> autoconvert.Bundle:
    return autoconvert.convert("demo", folder, context=CONTEXT, prefill=(64, 16), formats=("tflite", "litertlm"))


@cache
def heldout_windows() -> list[list[int]]:
    with as_file(files("autoconvert.source") / "demo") as demo:
        ids = load_tokenizer(demo).encode((demo / "heldout.txt").read_text(), add_special_tokens=False)
    return [ids[start : start + CONTEXT] for start in range(0, WINDOWS * CONTEXT, CONTEXT)]


@cache
def source_model() -> PreTrainedModel:
    with as_file(files("autoconvert.source") / "demo") as demo:
        return AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32)


def source_logits(tokens: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return source_model()(torch.tensor([list(tokens)])).logits[0]


def file_logits(runner: Runner, tokens: Sequence[int]) -> torch.Tensor:
    runner.reset()
    return torch.stack([runner.decode(token) for token in tokens])


def perplexity(logits: list[torch.Tensor]) -> float:
    losses = [
        torch.nn.functional.cross_entropy(part[:-1], torch.tensor(window[1:]))
        for part, window in zip(logits, heldout_windows(), strict=True)
    ]
    return float(torch.stack(losses).mean().exp())


def test_int8_perplexity_is_within_one_percent_of_fp32(bundle: autoconvert.Bundle) -> None:
    expected = perplexity([source_logits(window) for window in heldout_windows()])
    with open_file(bundle.files["tflite"]) as runner:
        actual = perplexity([file_logits(runner, window) for window in heldout_windows()])
    assert actual == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_int8_greedy_text_is_the_models_for_32_tokens(prompt: str, bundle: autoconvert.Bundle) -> None:
    with as_file(files("autoconvert.source") / "demo") as demo:
        tokenizer = load_tokenizer(demo)
    tokens = tokenizer.encode(prompt)
    said = list(tokens)
    for _ in range(32):
        said.append(int(source_logits(said)[-1].argmax()))
    with open_file(bundle.files["tflite"]) as runner:
        runner.prefill(tokens[:-1])
        heard = list(tokens)
        for _ in range(32):
            heard.append(int(runner.decode(heard[-1]).argmax()))
    assert heard == said


def test_the_bundle_writes_recognisable_text_in_the_runtime(bundle: autoconvert.Bundle) -> None:
    text = generate(bundle.files["litertlm"], "In the beginning", max_tokens=40)
    with as_file(files("autoconvert.source") / "demo") as demo:
        known = set((demo / "heldout.txt").read_text().split())
    words = text.split()[:-1]
    assert len(words) > 10
    assert sum(word in known for word in words) > 0.8 * len(words)
