"""A checkpoint becomes the tensors and settings that llama.cpp reads."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from checkpoints import write_checkpoint
from peers.gguf_file import write_gguf
from safetensors.torch import load_file
from transformers import AutoConfig

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def written(folder: Path, model_type: str, **settings: object) -> tuple[gguf.GGUFReader, dict[str, torch.Tensor]]:
    write_checkpoint(AutoConfig.for_model(model_type, **{**SIZES, **settings}), folder)
    write_gguf(folder, folder / "model.gguf")
    return gguf.GGUFReader(folder / "model.gguf"), load_file(folder / "model.safetensors")


def values(reader: gguf.GGUFReader, name: str) -> npt.NDArray[np.float32]:
    (found,) = [tensor for tensor in reader.tensors if tensor.name == name]
    return gguf.quants.dequantize(found.data, found.tensor_type)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
def test_every_weight_is_there_and_within_a_step_of_its_own(model_type: str, tmp_path: Path) -> None:
    reader, weights = written(tmp_path, model_type)
    assert len(reader.tensors) == len(weights)
    stored = values(reader, "blk.1.ffn_gate.weight")
    source = weights["model.layers.1.mlp.gate_proj.weight"].float().numpy()
    assert abs(stored - source).max() < abs(source).max() / 127


def test_rotary_pairs_of_llama_lie_side_by_side(tmp_path: Path) -> None:
    reader, weights = written(tmp_path, "llama")
    stored = values(reader, "blk.0.attn_k.weight")
    source = weights["model.layers.0.self_attn.k_proj.weight"].float().numpy()
    assert np.allclose(stored[:4], source[[0, 8, 1, 9]], atol=1e-3)


def test_rotary_scaling_becomes_factors(tmp_path: Path) -> None:
    reader, _ = written(tmp_path, "llama", rope_parameters=LLAMA3)
    factors = values(reader, "rope_freqs.weight")
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(8)


def test_norms_of_gemma_are_stored_with_their_one(tmp_path: Path) -> None:
    reader, weights = written(tmp_path, "gemma3_text")
    stored = values(reader, "blk.0.attn_q_norm.weight")
    assert np.allclose(stored, 1 + weights["model.layers.0.self_attn.q_norm.weight"].float().numpy())


def test_the_tokenizer_goes_along(tmp_path: Path) -> None:
    reader, _ = written(tmp_path, "qwen3")
    tokens = reader.get_field("tokenizer.ggml.tokens")
    assert tokens is not None
    assert tokens.contents()[-1] == "<|pad|>"
    assert len(tokens.contents()) == 300


def test_another_type_of_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="type gpt2"):
        written(tmp_path, "gpt2")
