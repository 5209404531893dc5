"""The whole way: a model in, a file out that says what the model says at every position."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, RobertaConfig

import autoconvert
from autoconvert.check.parity import distance, random_tokens
from autoconvert.runtime.runner import open_file
from tests.source.tiny import CONFIGS, build, llama

CONTEXT = 40
PREFILL = (12, 5)

SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one kv head": {"num_key_value_heads": 1},
    "a key for each head": {"num_key_value_heads": 4},
    "head width of its own": {"head_dim": 12, "hidden_size": 36},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "scaled rotary": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
}


def noisy(module: PreTrainedModel) -> PreTrainedModel:
    """Noise on every weight, so that norms and biases are not trivially one and zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def worst_distance(module: PreTrainedModel, folder: Path) -> float:
    """Converts in fp32; the file against the module, prefilled up to and decoded at every position."""
    bundle = autoconvert.convert(module, folder, quantize="none", context=CONTEXT, prefill=PREFILL, formats=("tflite",))
    tokens = random_tokens(CONTEXT, module.config.vocab_size)
    with torch.no_grad():
        expected = module(torch.tensor([tokens])).logits[0]
    with open_file(bundle.files["tflite"]) as runner:
        logits = torch.stack([runner.logits_at(tokens, position) for position in range(CONTEXT)])
    return float(distance(logits, expected).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_file_gives_the_models_logits_at_every_position(shape: str, tmp_path: Path) -> None:
    module = noisy(build(llama(**SHAPES[shape])))
    assert worst_distance(module, tmp_path) < 1e-4


@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_other_architectures_go_the_same_way(name: str, tmp_path: Path) -> None:
    """A window shorter than the text, norms by 1 + weight; learned positions, layer norms, transposed weights."""
    module = noisy(build(CONFIGS[name]))
    assert worst_distance(module, tmp_path) < 1e-4


def long_rope(**changes: object) -> LlamaConfig:
    """Frequencies for texts up to CONTEXT, and others for longer ones."""
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": CONTEXT, **factors}
    return llama(rope_parameters=rope, **changes)


def test_frequencies_for_short_texts_convert_as_far_as_they_reach(tmp_path: Path) -> None:
    """By a buffer that each call writes anew."""
    assert worst_distance(noisy(build(long_rope())), tmp_path) < 1e-4


def test_frequencies_that_change_with_the_length_are_refused_with_the_context_that_does(tmp_path: Path) -> None:
    with pytest.raises(autoconvert.Refused, match="depends on how long") as refusal:
        autoconvert.convert(build(long_rope()), tmp_path, context=CONTEXT + 1, prefill=(4,), formats=("tflite",))
    assert f"choose --context {CONTEXT} or less" in refusal.value.hint


def test_a_context_that_nobody_chose_is_the_one_that_does(tmp_path: Path) -> None:
    module = build(long_rope(max_position_embeddings=CONTEXT + 8))
    bundle = autoconvert.convert(module, tmp_path, formats=("tflite",), verify="off")
    assert bundle.report.settings["context"] == CONTEXT


def test_positions_that_the_model_counts_from_tokens_are_counted_along(tmp_path: Path) -> None:
    module = AutoModelForCausalLM.from_config(
        RobertaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, is_decoder=True)
    )
    assert worst_distance(noisy(module), tmp_path) < 1e-4


@pytest.mark.parametrize("quantize", ["int8", "fp16"])
def test_a_quantized_file_is_close_to_the_model_and_smaller(quantize: str, tmp_path: Path) -> None:
    module = noisy(build(llama()))
    sizes = {}
    for scheme in ("none", quantize):
        bundle = autoconvert.convert(
            module, tmp_path / scheme, quantize=scheme, context=16, prefill=(4,), formats=("tflite",)
        )
        sizes[scheme] = sum(bundle.report.bytes_by_dtype.values())
    tokens = random_tokens(16, module.config.vocab_size)
    with torch.no_grad():
        expected = module(torch.tensor([tokens])).logits[0]
    with open_file(tmp_path / quantize / "model.tflite") as runner:
        logits = torch.stack([runner.logits_at(tokens, position) for position in range(16)])
    assert sizes[quantize] < 0.6 * sizes["none"]
    assert float(((logits - expected).square().mean().sqrt()) / expected.std()) < 0.1


def test_report_says_what_was_done(tmp_path: Path) -> None:
    module = noisy(build(llama()))
    autoconvert.convert(module, tmp_path, context=16, prefill=(4,), formats=("tflite",))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["layers"] == 2
    assert report["blocks"] == {"norm": 5, "rotary": 4, "attention": 2, "feed_forward": 2}
    assert [signature["name"] for signature in report["signatures"]] == ["prefill_4", "decode"]
    assert all(check["passed"] for check in report["checks"])
    assert {row["status"] for row in report["checkpoint"]} == {"used"}
    assert set(tmp_path.iterdir()) == {tmp_path / "model.tflite", tmp_path / "report.json"}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    module = noisy(build(llama()))
    files = [
        autoconvert.convert(module, tmp_path / name, context=16, prefill=(4,), formats=("tflite",)).files["tflite"]
        for name in ("first", "second")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_failed_conversion_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"from before")

    class Unconvertible(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(tokens, 7).float().cumprod(1)

    with pytest.raises(autoconvert.Refused, match="cumprod"):
        autoconvert.convert(Unconvertible(), tmp_path, context=16, formats=("tflite",))
    assert (tmp_path / "model.tflite").read_bytes() == b"from before"
    assert list(tmp_path.iterdir()) == [tmp_path / "model.tflite"]


def test_a_refused_model_leaves_no_new_folder(tmp_path: Path) -> None:
    module = noisy(build(llama()))
    with pytest.raises(autoconvert.InputError, match="larger than the 64"):
        autoconvert.convert(module, tmp_path / "new", context=128, formats=("tflite",))
    assert not (tmp_path / "new").exists()
