"""A checkpoint as llama.cpp's GGUF in Q8_0: what its convert_hf_to_gguf.py writes of such a checkpoint.

That script takes only tokenizers that it knows by their hash, which a random checkpoint's is not; so the tensors are
written here, with the `gguf` package's own names and quantization. `python -m peers.gguf_file CHECKPOINT OUT.gguf`.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

Array = npt.NDArray[Any]

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}


def write_gguf(checkpoint: Path, file: Path) -> None:
    """Matrices in Q8_0, the rest in float32; ValueError for a type of model that is not in `ARCHITECTURES`."""
    config = AutoConfig.from_pretrained(checkpoint)
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no GGUF is written for the type {config.model_type}; only for {known}")
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    _write_settings(writer, config)
    _write_tokenizer(writer, config, json.loads((checkpoint / "tokenizer.json").read_text()))
    for name, values in _tensors(checkpoint, config, architecture):
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    rope = config.rope_parameters
    everywhere = rope.get("full_attention", rope)
    writer.add_name(config.model_type)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(everywhere["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config.sliding_window)


def _write_tokenizer(writer: gguf.GGUFWriter, config: PretrainedConfig, tokenizer: dict[str, Any]) -> None:
    """A byte-level BPE tokenizer, whose tokens llama.cpp spells as tokenizer.json does."""
    special = {each["id"]: each["content"] for each in tokenizer["added_tokens"]}
    tokens = {index: token for token, index in tokenizer["model"]["vocab"].items()} | special
    listed = [tokens[index] for index in range(config.vocab_size)]
    types = [gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL for index in range(len(listed))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(listed)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(True)


def _tensors(checkpoint: Path, config: PretrainedConfig, architecture: gguf.MODEL_ARCH) -> Iterator[tuple[str, Array]]:
    """Each tensor by llama.cpp's name, in float32 and in the form that llama.cpp computes with."""
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    if config.rope_parameters.get("rope_type") == "llama3":
        yield gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS] + ".weight", _frequency_factors(config)
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for source in file.keys():  # noqa: SIM118 (the file is no mapping)
                name = names.get_name(source, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise ValueError(f"llama.cpp has no tensor for {source}")
                yield name, _in_its_form(source, file.get_tensor(source).to(torch.float32).numpy(), config)


def _in_its_form(source: str, values: Array, config: PretrainedConfig) -> Array:
    """As convert_hf_to_gguf.py does: Llama's rotary pairs lie side by side, Gemma's norms are stored with their one."""
    if config.model_type == "llama" and source.endswith(("q_proj.weight", "k_proj.weight")):
        rows, columns = values.shape
        halves = values.reshape(rows // config.head_dim, 2, config.head_dim // 2, columns)
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
    if config.model_type == "gemma3_text" and source.endswith("norm.weight"):
        return values + 1
    return values


def _frequency_factors(config: PretrainedConfig) -> Array:
    """By how much each rotary frequency is divided under Llama 3's scaling, float32 [head_dim / 2]."""
    rope = config.rope_parameters
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for pair in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (pair / config.head_dim)
        turns = rope["original_max_position_embeddings"] / wavelength
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
