"""The configuration of a folder, and the module that transformers makes of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    __version__,
)

from autoconvert.errors import AutoconvertError, InputError, MachineError
from autoconvert.source.checkpoint_files import SAFETENSORS
from autoconvert.source.quantized.settings import Quantization, quantization_in
from autoconvert.source.skeleton import build_without_values

AUTO_MODEL = "AutoModelForCausalLM"
ADAPTER = "adapter_config.json"
ADAPTER_HINT = (
    "merge it into its base model first: PeftModel.from_pretrained(base, adapter).merge_and_unload(), save_pretrained "
    "to a folder of its own, and pass that"
)


def read_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration in `folder`/config.json, but for how the checkpoint is quantized: the module is the plain one.

    Raises InputError where there is none, it cannot be read, or no causal language model is known for it.
    """
    path = folder / "config.json"
    fields = _fields(folder)
    if (folder / ADAPTER).is_file():
        # from_pretrained would load it too, where peft is installed.
        raise InputError(f"{folder}: there is an adapter in it ({ADAPTER})", hint=ADAPTER_HINT)
    if (named := fields.get("transformers_weights")) not in (None, SAFETENSORS):
        raise InputError(
            f"{path}: transformers_weights names {named!r}, which is not supported yet",
            hint=f"rename that file to {SAFETENSORS} and leave the field out",
        )
    model_type, remote = fields.get("model_type"), fields.get("auto_map") or {}
    remote = remote if isinstance(remote, Mapping) else {}
    is_known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    if not is_known and not remote:
        raise InputError(
            f"{path}: transformers {__version__} does not know the model type {model_type!r}",
            hint="update transformers, or build the module yourself and pass it to autoconvert.driver.convert",
        )
    if not is_known and not trust_remote_code:
        raise InputError(
            f"{path}: the model type {model_type!r} comes with code of its own",
            hint="read that code, then pass --trust-remote-code to run it",
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise InputError(
            f"{path}: transformers cannot read it ({_brief(error)})",
            hint="check config.json against the model's documentation",
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not (trust_remote_code and AUTO_MODEL in remote):
        if AUTO_MODEL in remote:
            hint = "read the code that comes with the model, then pass --trust-remote-code to run it"
        else:
            hint = "pass a causal (decoder-only) language model, or a module of your own"
        raise InputError(f"{path}: there is no causal language model for type {model_type!r}", hint=hint)
    _leave_out_quantization(config)
    return config


def read_quantization(folder: Path) -> Quantization | None:
    """What `folder`/config.json says of how the checkpoint is quantized. Raises as `read_config`."""
    return quantization_in(folder / "config.json", _fields(folder))


def build_module(config: PreTrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of `config` in eval mode and float32, its parameters without values.

    Attention is torch's scaled_dot_product_attention where the class supports it, primitive operations where not.
    Raises InputError where transformers cannot build it, Refused where its constructor needs weights.
    """

    def build(attention: str) -> PreTrainedModel:
        return build_without_values(
            lambda: AutoModelForCausalLM.from_config(
                config,
                attn_implementation=attention,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
            )
        )

    try:
        try:
            return build("sdpa")
        except (ValueError, ImportError):
            return build("eager")
    except AutoconvertError:
        raise
    except ImportError as error:
        raise InputError(
            f"{config.model_type}: the module needs a package that is not installed ({_brief(error)})",
            hint="install it and try again",
        ) from error
    except Exception as error:
        raise InputError(
            f"{config.model_type}: transformers cannot build the module ({type(error).__name__}: {_brief(error)})",
            hint="check config.json: does AutoModelForCausalLM.from_config accept it?",
        ) from error


def _fields(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{path}: missing", hint=_hint_for_no_config(folder))
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})", hint="download or save the model again") from error
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror})", hint="check disk and permissions") from error
    if not isinstance(fields, Mapping):
        raise InputError(f"{path}: not a JSON object", hint="download or save the model again")
    return fields


def _leave_out_quantization(config: PreTrainedConfig) -> None:
    """Transformers replaces layers, and hands the field from the model's configuration on to that of its text."""
    for scope in (config, *(getattr(config, key, None) for key in config.sub_configs)):
        if isinstance(scope, PreTrainedConfig) and "quantization_config" in vars(scope):
            del scope.quantization_config


def _hint_for_no_config(folder: Path) -> str:
    if (folder / ADAPTER).is_file():
        return f"this is an adapter: {ADAPTER_HINT}"
    if any(folder.glob("*.gguf")):
        return "beside other weights a GGUF file is not read: pass its path"
    return "pass a folder as save_pretrained writes it"


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
