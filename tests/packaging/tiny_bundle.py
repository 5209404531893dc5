"""A tiny random Llama with its tokenizer, and its `.tflite` written out by hand: something real to bundle."""

import atexit
import hashlib
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autoconvert.ir.state import State
from autoconvert.lowering.cpu import CPU
from autoconvert.packaging.litertlm import write_bundle
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.tokenizer import TokenizerSpec, read_tokenizer

CONTEXT = 96
PREFILL = (8, 32)
CORPUS = (
    "The cat sat on the mat and looked at the moon.",
    "A compiler reads a graph, rewrites it, and writes a file.",
    "Once upon a time there was a small model with two layers; it was not very clever.",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. 0123456789 !?",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level_tokenizer(*, prepends_start: bool, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 400 tokens with `<s>`, `</s>`, `<pad>` and chat markers, for any text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    markers = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=markers,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if prepends_start:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    """Random weights drawn wide enough that logits differ by several units."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[1], pad_token_id=2)
    return model.eval().requires_grad_(False)


def states(model: LlamaForCausalLM) -> tuple[State, ...]:
    """The caches of `model`: keys and values [1, K, S, D]."""
    config = model.config
    heads, width = config.num_key_value_heads, config.head_dim
    return tuple(
        state
        for layer in range(config.num_hidden_layers)
        for state in (
            CPU.key_cache(layer, heads, CONTEXT, width),
            CPU.value_cache(layer, heads, CONTEXT, width),
        )
    )


class CachedLlama(torch.nn.Module):
    """`model` with caches as inputs and outputs; prefill returns the caches, decode the logits too."""

    def __init__(self, model: LlamaForCausalLM, *, decode: bool) -> None:
        super().__init__()
        self.model, self.decode = model, decode

    def forward(
        self, tokens: torch.Tensor, input_pos: torch.Tensor, mask: torch.Tensor, **caches: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        config, body = self.model.config, self.model.model
        length, heads, width = tokens.shape[1], config.num_key_value_heads, config.head_dim
        groups = config.num_attention_heads // heads
        hidden = body.embed_tokens(tokens)
        angles = input_pos.to(torch.float32)[:, None] * body.rotary_emb.inv_freq[None, :]
        cos, sin = torch.cos(angles).repeat(1, 2), torch.sin(angles).repeat(1, 2)

        def rotate(x: torch.Tensor) -> torch.Tensor:
            half = x.shape[-1] // 2
            return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

        written = {}
        for i, layer in enumerate(body.layers):
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            query = rotate(attention.q_proj(normed).view(1, length, heads * groups, width).transpose(1, 2))
            key = rotate(attention.k_proj(normed).view(1, length, heads, width).transpose(1, 2))
            value = attention.v_proj(normed).view(1, length, heads, width).transpose(1, 2)
            keys = write_slice(caches[f"kv_cache_k_{i}"], key, input_pos[0], 2)
            values = write_slice(caches[f"kv_cache_v_{i}"], value, input_pos[0], 2)
            written[f"kv_cache_k_{i}"], written[f"kv_cache_v_{i}"] = keys, values
            scores = query.reshape(1, heads, groups * length, width) @ keys.transpose(2, 3) * width**-0.5
            weights = F.softmax(scores + mask.repeat(1, 1, groups, 1), -1)
            mixed = (weights @ values).reshape(1, heads * groups, length, width)
            hidden = hidden + attention.o_proj(mixed.transpose(1, 2).reshape(1, length, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return {**written, "logits": self.model.lm_head(body.norm(hidden))} if self.decode else written


def write_slice(cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor, axis: int) -> torch.Tensor:
    from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice

    zero = torch.zeros_like(start)
    written: torch.Tensor = dynamic_update_slice(cache, update, [start if d == axis else zero for d in range(4)])
    return written


def write_tflite(model: LlamaForCausalLM, path: Path) -> None:
    """Converts `model` to the signatures `prefill_T` for each T in PREFILL and `decode`."""
    import litert_torch

    def sample(length: int) -> dict[str, torch.Tensor]:
        return {
            "tokens": torch.zeros(1, length, dtype=torch.int32),
            "input_pos": torch.arange(length, dtype=torch.int32),
            "mask": torch.zeros(1, 1, length, CONTEXT),
            **{state.name: torch.zeros([int(size) for size in state.shape]) for state in states(model)},
        }

    first, *rest = PREFILL
    prefill = CachedLlama(model, decode=False)
    signatures = litert_torch.signature(f"prefill_{first}", prefill, sample_kwargs=sample(first))
    for length in rest:
        signatures = signatures.signature(f"prefill_{length}", prefill, sample_kwargs=sample(length))
    signatures = signatures.signature("decode", CachedLlama(model, decode=True), sample_kwargs=sample(1))
    signatures.convert().export(str(path))


@cache
def tiny_folder() -> Path:
    """A model folder with weights, chatting tokenizer and `model.tflite`, made once a process."""
    folder = Path(mkdtemp(prefix="autoconvert-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)
    model = tiny_llama(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_tflite(model, folder / "model.tflite")
    return folder


@cache
def tiny_reference() -> LlamaForCausalLM:
    """The model of `tiny_folder`."""
    return LlamaForCausalLM.from_pretrained(tiny_folder()).eval().requires_grad_(False)


def reference_logits(ids: list[int]) -> torch.Tensor:
    """float32 [len(ids), vocabulary] of the model of `tiny_folder`."""
    logits: torch.Tensor = tiny_reference()(torch.tensor([ids])).logits[0]
    return logits


def greedy(ids: list[int], count: int) -> list[int]:
    """The `count` tokens that follow `ids` greedily."""
    answer = list(ids)
    for _ in range(count):
        answer.append(int(reference_logits(answer)[-1].argmax()))
    return answer[len(ids) :]


def bundle(path: Path, spec: TokenizerSpec | None = None) -> Path:
    """`tiny_folder` as a bundle at `path`; `spec` in place of the folder's own tokenizer reading."""
    spec = spec or read_tokenizer(tiny_folder())
    kept = states(tiny_reference())
    tflite = tiny_folder() / "model.tflite"
    write_bundle(
        tflite,
        hashlib.sha256(tflite.read_bytes()).hexdigest(),
        spec.section,
        build_llm_metadata(spec, CONTEXT),
        build_executor_metadata(kept, CONTEXT, CPU),
        path,
        CPU.section,
    )
    return path
