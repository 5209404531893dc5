"""A file whose lengths follow the history says what the model says, however a text is read and continued."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BloomConfig, GraniteSWAConfig, MambaConfig

import autoconvert
from autoconvert.check.parity import distance, random_tokens
from autoconvert.check.verdict import NUMBER_LAYERS
from autoconvert.report.progress import Silent
from autoconvert.runtime.runner import open_file
from tests.driver.test_convert import noisy
from tests.lowering.on_device import postponed, shared_concatenations
from tests.models import VOCABULARY, Decoder, logits_of_source
from tests.passes.test_keys_to_slots import COMPARISONS
from tests.source.tiny import CONFIGS, build, mixtral

CONTEXT = 48


def files(module: nn.Module | Path, folder: Path) -> autoconvert.Bundle:
    return autoconvert.convert(module, folder, quantize="none", context=CONTEXT, formats=("tflite",), cache=False)


# Its sinks join each softmax, and windows hide positions of every other layer.
SINKS = GraniteSWAConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=8,
    layer_types=["full_attention", "sliding_attention"],
    layer_rope_theta=[1e4, 5e5],
    max_position_embeddings=96,
)
# Slopes for the distances of pairs, which no softmax need sum up.
BLOOM = BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)
MODELS = {**{name: CONFIGS[name] for name in ("llama", "gemma3", "gpt2")}, "sinks": SINKS, "slopes": BLOOM}


def assert_right_in_pieces(path: Path, tokens: list[int], expected: Tensor, *texts: tuple[int, ...]) -> None:
    """Each text is read in pieces of so many tokens, a token decoded after each; `expected` is [text, vocabulary]."""
    with open_file(path) as runner:
        assert runner.capacity is None
        for pieces in texts:
            runner.reset()
            for count in pieces:
                runner.prefill(tokens[runner.position : runner.position + count])
                here = runner.position
                assert distance(runner.decode(tokens[here])[None], expected[here][None]).max() < 1e-4


# What compares positions otherwise than softmax attention does, or chooses among them.
OTHERS = (
    "talking heads",
    "largest scores",
    "linear",
    "memory before",
    "biased by distance",
    "looked up by distance",
    "chosen by an indexer",
)


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_a_text_is_read_in_pieces_of_any_length(name: str, tmp_path: Path) -> None:
    module = noisy(build(MODELS[name])) if name in MODELS else Decoder(attend=COMPARISONS[name])
    bundle = files(module, tmp_path)
    assert [signature["name"] for signature in bundle.report.signatures] == ["prefill", "decode"]
    # A shape that only a run shows moves memory that later calls of other lengths still read (ai-edge-litert 2.3.0).
    content = bundle.files["tflite"].read_bytes()
    assert not postponed(content)
    assert not shared_concatenations(content)
    tokens = random_tokens(CONTEXT, VOCABULARY)
    expected = logits_of_source(module, tokens)
    texts = ((0, 0, 0), (1, 0, 2), (17, 16), (3, 29, 1), (CONTEXT - 1,))
    assert_right_in_pieces(bundle.files["tflite"], tokens, expected, *texts)


def test_a_shorter_history_after_a_longer_one_knows_nothing_of_it(tmp_path: Path) -> None:
    path = files(build(CONFIGS["llama"]), tmp_path).files["tflite"]
    tokens = random_tokens(8, 97)
    with open_file(path) as runner:
        first = runner.logits_at(tokens, 5)
        runner.reset(CONTEXT - 2)
        runner.decode(tokens[0])
        assert torch.equal(first, runner.logits_at(tokens, 5))


def test_a_recurrence_gets_fixed_lengths_and_says_why(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)
    chosen = files(build(config), tmp_path).report.settings
    assert max(chosen["prefill"]) <= 16
    assert "one after the other" in chosen["why_fixed"]


class Started(Silent):
    """The stages that began."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def started(self, stage: str) -> None:
        self.stages.append(stage)


def test_a_mixture_gets_fixed_lengths_and_is_lowered_once(tmp_path: Path) -> None:
    """Each operation is lowered once a signature: that its experts take no open length is known before."""
    display = Started()
    bundle = autoconvert.convert(
        build(mixtral()),
        tmp_path,
        quantize="none",
        context=CONTEXT,
        formats=("tflite",),
        display=display,
        cache=False,
    )
    assert "experts" in bundle.report.settings["why_fixed"]
    assert display.stages.count("lower") == 1


def test_such_a_file_passes_beside_its_model(tmp_path: Path) -> None:
    module = noisy(build(CONFIGS["gemma3"]))
    module.save_pretrained(tmp_path / "model")
    bundle = files(tmp_path / "model", tmp_path / "out")
    found = {verdict.layer: verdict for verdict in autoconvert.check_file(bundle.files["tflite"], tmp_path / "model")}
    assert {found[layer].outcome for layer in NUMBER_LAYERS} == {"passed"}, found
    assert "any length" in found["contract"].detail
