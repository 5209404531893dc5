"""Tiny random models of several architectures, and weights that note what is read."""

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from autoconvert.source.weights import TensorWeights, Weights

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def llama(**changes: object) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, **changes})


def mixtral(**changes: object) -> MixtralConfig:
    return MixtralConfig(**{**SIZES, "num_local_experts": 4, **changes})


def gemma3() -> Gemma3TextConfig:
    layers = ["sliding_attention", "full_attention"]
    return Gemma3TextConfig(**SIZES, sliding_window=8, layer_types=layers)


def gpt2() -> GPT2Config:
    return GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)


CONFIGS = {
    "llama": llama(),
    "llama-tied": llama(tie_word_embeddings=True),
    "gemma3": gemma3(),
    "gpt2": gpt2(),
    "mixtral": mixtral(),
}


def build(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A module with random weights, norms and biases too."""
    torch.manual_seed(0)
    module: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return module.eval()


def load(folder: Path) -> PreTrainedModel:
    """What transformers itself loads from a folder, in float32."""
    module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return module.eval()


class Recording:
    """Weights that note the names of what is read, and how many elements each read gave."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.read_names: list[str] = []
        self.sizes: list[int] = []

    def names(self) -> Collection[str]:
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights.dtype(name)

    def nbytes(self, name: str) -> int:
        return self._weights.nbytes(name)

    def read(self, name: str) -> torch.Tensor:
        return self._note(name, self._weights.read(name))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._note(name, self._weights.read_rows(name, start, stop))

    def pieces(self, name: str) -> Iterator[memoryview]:
        return TensorWeights({name: self._weights.read(name)}).pieces(name)

    def _note(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        self.read_names.append(name)
        self.sizes.append(tensor.numel())
        return tensor
