"""Random checkpoints of real shapes: what a conversion reads, without a download.

A checkpoint is written tensor by tensor and each tensor in slices, so memory stays the same whatever the
model's size. The same configuration and seed give the same bytes.
"""

import copy
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SHAPES: dict[str, dict[str, object]] = {
    "llama-3.2-1b": {
        "model_type": "llama",
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "smollm2-135m": {
        "model_type": "llama",
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "gemma-3-270m": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 18,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "vocab_size": 262144,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 26,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 262144,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "query_pre_attn_scalar": 256,
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>")

_STANDARD_DEVIATION = 0.02
_SLICE_ELEMENTS = 1 << 24
_SHARD_BYTES = 5 * 10**9
_DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def shape_config(shape: str, *, layers: int | None = None) -> PretrainedConfig:
    """The configuration of a name in `SHAPES`, of `layers` layers if given; KeyError for another name."""
    settings = dict(SHAPES[shape])
    if layers is not None:
        settings["num_hidden_layers"] = layers
    return AutoConfig.for_model(**settings)


def write_checkpoint(
    config: PretrainedConfig,
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Write config, tokenizer and random weights to `folder`, as `save_pretrained` would leave them.

    Tensors bear the names of the module that `AutoModelForCausalLM` builds. Weights of two and more axes
    are N(0, 0.02²), those of one axis N(m, 0.02²) with m as the architecture starts them: a norm that
    multiplies by 1 + w begins at 0, one that multiplies by w at 1. `config` is completed:
    its begin, end and padding tokens become the tokenizer's. A file holds at most `shard_bytes` bytes of
    weights, or one tensor. ValueError for a tensor that is not floating, or a vocabulary too small for
    `save_tokenizer`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = int(config.get_text_config().vocab_size)
    save_tokenizer(vocabulary, folder)
    begin, end, padding = range(vocabulary - len(SPECIAL_TOKENS), vocabulary)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = begin, end, padding
    config.dtype = dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    GenerationConfig(bos_token_id=begin, eos_token_id=end, pad_token_id=padding).save_pretrained(folder)

    means = _starting_means(model)
    shards = list(_shards(_tensors(model), shard_bytes))
    location: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        part = "" if len(shards) == 1 else f"-{number:05}-of-{len(shards):05}"
        name = f"model{part}.safetensors"
        location |= dict.fromkeys(tensors, name)
        _write_safetensors(folder / name, tensors, means, seed)
    if len(shards) > 1:
        size = sum(tensor.nbytes for tensors in shards for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": location}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def save_tokenizer(vocabulary: int, folder: Path) -> None:
    """Save a byte-level BPE tokenizer of `vocabulary` tokens to `folder`; ValueError if that is too few.

    The tokens are the 256 bytes, then pairs and then triples of bytes with the merges that make them, then
    `SPECIAL_TOKENS`: a table and a merge list as long as a trained tokenizer's.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(alphabet) + len(SPECIAL_TOKENS)
    if vocabulary < least:
        raise ValueError(f"a byte-level tokenizer needs {least} tokens, not {vocabulary}")
    merges = list(itertools.islice(_merges(alphabet), vocabulary - least))
    tokens = [*alphabet, *(left + right for left, right in merges)]

    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    begin, end, padding = SPECIAL_TOKENS
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=padding,
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(folder)


def _merges(alphabet: Sequence[str]) -> Iterator[tuple[str, str]]:
    for length in itertools.count(1):
        for left in itertools.product(alphabet, repeat=length):
            yield from (("".join(left), right) for right in alphabet)


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weightless tensors that a checkpoint of `model` holds, tied ones once."""
    once = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def _starting_means(model: PreTrainedModel) -> dict[str, float]:
    """The mean that the architecture's own initialisation gives each parameter of one axis, by its name."""
    means: dict[str, float] = {}
    for path, module in model.named_modules():
        names = [name for name, parameter in module.named_parameters(recurse=False) if parameter.ndim == 1]
        if not names:
            continue
        # Only its own parameters are filled: a copy of all below it would hold the whole model.
        alone = copy.copy(module)
        alone._modules = {}
        alone = copy.deepcopy(alone).to_empty(device="cpu")
        with torch.no_grad():
            for parameter in alone.parameters():
                parameter.zero_()
            model._init_weights(alone)
        means |= {f"{path}.{name}": getattr(alone, name).detach().float().mean().item() for name in names}
    return means


def _shards(tensors: Mapping[str, torch.Tensor], limit: int) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], means: Mapping[str, float], seed: int) -> None:
    """Format: u64 header length, JSON header, raw data (github.com/huggingface/safetensors, README)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        if tensor.dtype not in _DTYPE_NAMES:
            raise ValueError(f"no random values for {name}, a tensor of {tensor.dtype}")
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            _write_random(file, name, tensor, means.get(name, 0.0), seed)


def _write_random(file: BinaryIO, name: str, tensor: torch.Tensor, mean: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    for start in range(0, tensor.numel(), _SLICE_ELEMENTS):
        count = min(_SLICE_ELEMENTS, tensor.numel() - start)
        values = torch.randn(count, generator=generator).mul_(_STANDARD_DEVIATION).add_(mean).to(tensor.dtype)
        file.write(values.view(torch.uint8).numpy().data)
