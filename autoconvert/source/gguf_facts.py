"""What a GGUF file says of its model in settings, against the configuration that the module is built of.

transformers takes some settings into a configuration, leaves others to the defaults of its class, and passes over those
that it does not know. Where the configuration says another thing than the file, the module is another model, and
nothing else would show it.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from autoconvert.errors import InputError
from autoconvert.source.gguf_file import GgufCheckpoint
from autoconvert.source.gguf_header import Header
from autoconvert.source.skeleton import set_buffer

CONFIG_HINT = "put the config.json of the original model beside the file"

# What llama.cpp's settings (gguf.constants.Keys) are called in configurations.
_NAMES: dict[str, tuple[str, ...]] = {
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads", "n_head"),
    "attention.key_length": ("head_dim", "global_head_dim"),
    "attention.value_length": ("head_dim", "global_head_dim"),
    "attention.key_length_swa": ("head_dim",),
    "attention.value_length_swa": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attention.causal": ("causal",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "full_attention_interval": ("full_attention_interval",),
    "rope.dimension_count": ("rotary_width",),
    "rope.dimension_count_swa": ("rotary_width",),
    "rope.dimension_sections": ("mrope_section",),
    "rope.freq_base": ("rope_theta",),
    "rope.freq_base_swa": ("rope_theta",),
    "rope.scaling.type": ("rope_type",),
    "rope.scaling.factor": ("factor",),
    "shortconv.l_cache": ("conv_L_cache",),
    "ssm.conv_kernel": ("conv_kernel", "linear_conv_kernel_dim"),
    "ssm.group_count": ("linear_num_key_heads",),
    "ssm.state_size": ("state_size", "linear_key_head_dim"),
    "ssm.time_step_rank": ("time_step_rank", "linear_num_value_heads"),
    "use_parallel_residual": ("use_parallel_residual", "parallel_attn"),
}
# What the shapes of tensors say too, what limits a text, and what says how the file came to be.
_NEEDLESS = {
    "block_count",
    "context_length",
    "embedding_length",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "feed_forward_length",
    "nextn_predict_layers",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "ssm.inner_size",
    "tensor_data_layout",
    "vocab_size",
}
# That no frequency is scaled, which configurations say by leaving it out.
_UNSCALED: dict[str, tuple[object, ...]] = {"rope.scaling.type": ("none",), "rope.scaling.factor": (0, 1)}

_FACTORS, _BASE = "rope_freqs.weight", 10000.0
_TOLERANCE = 1e-4


def refuse_other_settings(path: Path, header: Header, config: PreTrainedConfig, is_stated: bool) -> None:
    """Raise InputError where `config` says another thing than the file at `path`, or cannot say it.

    Where a person stated the configuration (`is_stated`), what has no known name in it is theirs to know.
    """
    known = _said_by(config)
    for name, value in header.settings.items():
        fact = name.removeprefix(f"{header.architecture}.")
        if fact == name or fact in _NEEDLESS:
            continue
        found = [each for spelled in _NAMES.get(fact, ()) for each in known.get(spelled, ())]
        # What is zero or false is off, for llama.cpp as for a configuration that does not know it.
        is_off = not value and not found
        is_theirs = is_stated and fact not in _NAMES
        if is_off or is_theirs or any(_same(value, each) for each in (*found, *_UNSCALED.get(fact, ()))):
            continue
        said = " and ".join(map(str, found)) or "nothing of it"
        raise InputError(
            f"{path}: {name} is {value}, and the configuration says {said}",
            hint="check that config.json belongs to the file" if is_stated else CONFIG_HINT,
        )


def scale_frequencies(path: Path, checkpoint: GgufCheckpoint, module: nn.Module) -> tuple[str, ...]:
    """Gives the rotary frequencies of `module` the file's factors, as llama.cpp does; names the tensor that has them.

    A tensor `rope_freqs.weight` [width / 2] has what each frequency θ^(-2i / width) is divided by. Raises InputError
    where the module's frequencies are neither these nor the plain ones.
    """
    if _FACTORS not in checkpoint.names():
        return ()
    factors = checkpoint.read(_FACTORS).double()
    base = checkpoint.header.settings.get(f"{checkpoint.header.architecture}.rope.freq_base")
    base = float(base) if isinstance(base, int | float) else _BASE
    plain = base ** (-torch.arange(len(factors), dtype=torch.float64) / len(factors))
    wanted = plain / factors
    buffers = {name: each for name, each in module.named_buffers() if name.endswith("inv_freq")}
    found = {name: each.double() for name, each in buffers.items() if each.shape == wanted.shape}
    for name, frequencies in found.items():
        if torch.allclose(frequencies, wanted, rtol=_TOLERANCE, atol=0):
            continue
        if not torch.allclose(frequencies, plain, rtol=_TOLERANCE, atol=0):
            raise InputError(
                f"{path}: {_FACTORS} gives other rotary frequencies than the configuration",
                hint="check that config.json belongs to the file",
            )
        set_buffer(module, name, wanted.to(buffers[name].dtype))
    return (_FACTORS,) if found else ()


def _said_by(config: PreTrainedConfig) -> Mapping[str, list[Any]]:
    """The values of a configuration by their names, wherever in it they stand."""
    text = config.get_text_config()
    said: dict[str, list[Any]] = {}
    for name, value in _leaves(text.to_dict()):
        said.setdefault(name, []).append(value)
    if (heads := getattr(text, "num_attention_heads", None)) and not said.get("head_dim"):
        said["head_dim"] = [text.hidden_size // heads]
    said["causal"] = [True]
    widths = [width for width in said.get("head_dim", ()) if width]
    parts = [part for part in said.get("partial_rotary_factor", ()) if part] or [1]
    said["rotary_width"] = [*said.get("rotary_dim", ()), *(int(width * part) for width in widths for part in parts)]
    return said


def _leaves(values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif value is not None:
            yield str(name), value


def _same(one: object, other: object) -> bool:
    """Equal as far as float32 tells numbers apart; of a list for each layer, as its largest is."""
    if isinstance(one, list) and not isinstance(other, list):
        return bool(one) and _same(max(one), other)
    if isinstance(one, list) and isinstance(other, list):
        return [each for each in one if each] == [each for each in other if each]
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other
