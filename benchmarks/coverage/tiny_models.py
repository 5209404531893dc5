"""Tiny random-weight models of every causal language model type that transformers lists."""

import inspect
import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

CONFIGS = Path(__file__).parent / "configs"

# What AutoModelForCausalLM can make, but not a model from a sequence of tokens to their next ones.
_NOT_FROM_TOKENS = {
    "cpmant": "reads segments of a prompt in both directions around the tokens: not a causal model of tokens",
    "gemma4_assistant": "drafts for a larger model, whose hidden states and caches it takes as inputs",
    "gemma4_unified_assistant": "drafts for a larger model, whose hidden states and caches it takes as inputs",
    "musicgen": "takes four audio codebooks at each position instead of a token",
    "musicgen_melody": "takes four audio codebooks at each position instead of a token",
}


class NotBuildable(Exception):
    """No model of this type can be made here; the message says why."""


def types() -> list[str]:
    """Every type of the installed transformers, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_of(model_type: str) -> PreTrainedConfig:
    """The configuration in `configs/TYPE.json`, which says only what differs from the class's defaults.

    Raises:
        NotBuildable: the type is no model from tokens to logits.
    """
    if model_type in _NOT_FROM_TOKENS:
        raise NotBuildable(_NOT_FROM_TOKENS[model_type])
    fields = json.loads((CONFIGS / f"{model_type}.json").read_text())
    return CONFIG_MAPPING[model_type].from_dict(fields)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A model in float32 and eval mode with attention and experts as they are by default; the same every time.

    Raises:
        NotBuildable: a package that is not installed is missing.
    """
    torch.manual_seed(0)
    # In this mode torch.empty() is filled with NaN, so that what a model leaves uninitialised can be replaced.
    torch.use_deterministic_algorithms(True)
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ImportError as error:
        raise NotBuildable(" ".join(str(error).split())[:160]) from error
    finally:
        torch.use_deterministic_algorithms(False)
    _add_noise(model)
    return model.eval()


def _add_noise(model: PreTrainedModel) -> None:
    """Moves every weight away from what initialisation made trivial: zeros, ones, equal rows, nothing at all."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                # Infinities are meant: masks and limits have them.
                tensor.nan_to_num_(nan=0.0, posinf=float("inf"), neginf=float("-inf"))
        for tensor in (*model.parameters(), *_blank_buffers(model)):
            if tensor.is_floating_point():
                # Matrices get about unit gain at width 64, so that attention is far from uniform.
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
            elif tensor.dtype == torch.int64:
                tensor.copy_(torch.randint(0, 2, tensor.shape, generator=generator))


def _blank_buffers(model: PreTrainedModel) -> list[Tensor]:
    """What training fills though it is no parameter: buffers of the checkpoint that are all zeros or all ones."""
    saved = model.state_dict()
    held = [buffer for name, buffer in model.named_buffers() if name in saved and buffer.numel()]
    return [buffer for buffer in held if bool((buffer == buffer.flatten()[0]).all()) and buffer.flatten()[0] in (0, 1)]


def save(model: PreTrainedModel, config: PreTrainedConfig, folder: Path) -> None:
    """Writes what a user would have: the weights, and the whole configuration where the model has a part of it."""
    model.save_pretrained(folder)
    if model.config.model_type != config.model_type:
        config.save_pretrained(folder)


def sample_tokens(config: PreTrainedConfig, count: int) -> list[int]:
    """Random tokens, the same each time, and among them twice the one that stands for padding."""
    text = config.get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(1)
    tokens: list[int] = torch.randint(0, text.vocab_size, (count,), generator=generator).tolist()
    padding = getattr(text, "pad_token_id", None) or 0
    for position in (count // 8, count // 2):
        tokens[position] = padding
    return tokens


def logits_of(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    """The model's own logits [sequence, vocabulary] for all of `tokens` in one run.

    It keeps no cache: with one, some leave out their causal mask, or cannot make it.
    """
    has_cache = "use_cache" in inspect.signature(model.forward).parameters
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([tokens]), **({"use_cache": False} if has_cache else {})).logits
    return logits[0].float()
