"""Tiny GGUF files of random models, as llama.cpp's convert_hf_to_gguf.py writes them of such a checkpoint."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

Array = npt.NDArray[Any]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "lfm2": gguf.MODEL_ARCH.LFM2,
}
# Where blocks that nobody can quantize to have their scales, float16.
_SCALES = {GGMLQuantizationType.Q4_K: (0, 2), GGMLQuantizationType.Q5_K: (0, 2), GGMLQuantizationType.Q6_K: (208,)}


def write_gguf(
    module: PreTrainedModel,
    path: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    settings: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    tensors: Mapping[str, Array] | None = None,
    leave_out: str = "",
    tensors_a_part: int = 0,
) -> Path:
    """Matrices of `module` in `kind`, the rest in float32; `tensors` are others beside them. Gives the first part."""
    architecture = ARCHITECTURES[module.config.model_type]
    name = gguf.MODEL_ARCH_NAMES[architecture]
    writer = gguf.GGUFWriter(None, name, split_max_tensors=tensors_a_part)
    _write_settings(writer, module.config)
    settings(writer)
    if tokenizer is not None:
        _write_tokenizer(writer, tokenizer)
    for tensor, values in (*_tensors(module, architecture), *(tensors or {}).items()):
        if tensor == leave_out:
            continue
        if values.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(tensor, values)
        else:
            writer.add_tensor(tensor, packed(values, kind), raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(path.parent.glob(f"{path.stem}*.gguf"))))


def packed(values: Array, kind: GGMLQuantizationType) -> Array:
    """`values` in `kind`; where gguf can only read that, blocks of random bits with scales of 0.01."""
    if kind not in _SCALES:
        return gguf.quants.quantize(values, kind)
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (values.size // numbers, size), np.uint8)
    for place in _SCALES[kind]:
        blocks[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return blocks.reshape(*values.shape[:-1], -1)


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """What transformers itself loads from a GGUF file, in float32."""
    # It asks for accelerate, which it uses for other devices alone.
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda: True)
    module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return module.eval()


def _write_settings(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type in ("gpt2", "lfm2"):
        # Of these transformers counts the tokens.
        writer.add_token_list([f"t{index}" for index in range(config.vocab_size)])
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(getattr(config, "norm_eps", None) or config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if config.model_type == "lfm2":
        attends = [kind == "full_attention" for kind in config.layer_types]
        writer.add_head_count_kv([config.num_key_value_heads * each for each in attends])
        writer.add_shortconv_l_cache(config.conv_L_cache)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type in ("llama", "gemma3_text", "qwen3"):
        writer.add_key_length(width)
        writer.add_value_length(width)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(width)
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "qwen2_moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    """A byte-level BPE tokenizer, whose tokens llama.cpp spells as tokenizer.json does."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kinds = [gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL for index in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(module: PreTrainedModel, architecture: gguf.MODEL_ARCH) -> Iterator[tuple[str, Array]]:
    """Each tensor by llama.cpp's name, float32 in the form that llama.cpp computes with."""
    config = module.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    is_tied = config.tie_word_embeddings
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", frequency_factors(config)
    for source, tensor in module.state_dict().items():
        if is_tied and source == "lm_head.weight":
            continue
        values = tensor.float().numpy()
        if source.endswith("experts.gate_up_proj"):
            layer = source.split(".")[2]
            for part, half in zip(("gate", "up"), np.split(values, 2, axis=1), strict=True):
                yield f"blk.{layer}.ffn_{part}_exps.weight", np.ascontiguousarray(half)
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"llama.cpp has no tensor for {source}")
        if source.endswith("experts.down_proj"):
            name += ".weight"
        yield name, np.ascontiguousarray(_in_its_form(source, values, config))


def _in_its_form(source: str, values: Array, config: Any) -> Array:
    """Llama's rotary pairs lie side by side, Gemma's norms are stored with their one, GPT-2's matrices transposed."""
    kind = config.model_type
    if kind == "llama" and source.split(".")[-2] in ("q_proj", "k_proj"):
        halves = values.reshape(-1, 2, config.head_dim // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    if kind == "gemma3_text" and source.endswith("norm.weight"):
        return values + np.float32(1)
    if kind == "gpt2" and values.ndim == 2 and ".h." in source:
        return values.T
    if "shared_expert_gate" in source or source.endswith("conv.conv.weight"):
        return values.squeeze(0 if "gate" in source else 1)
    return values


def frequency_factors(config: Any) -> Array:
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
