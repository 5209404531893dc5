"""What is made of a configuration, and what is said of one that cannot be used."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    ModernBertDecoderConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from autoconvert.errors import InputError, Refused
from autoconvert.source.config import build_module, read_config, read_quantization
from autoconvert.source.skeleton import build_without_values, is_fake
from autoconvert.source.source import load_source

from .tiny import SIZES, build, llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(llama()).save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@contextmanager
def resident_growth() -> Iterator[list[int]]:
    """The largest growth of resident memory, bytes, sampled while the block runs."""
    process, done, growth = psutil.Process(), Event(), [0]
    before = process.memory_info().rss

    def sample() -> None:
        while not done.is_set():
            growth[0] = max(growth[0], process.memory_info().rss - before)
            time.sleep(0.002)

    sampler = Thread(target=sample)
    sampler.start()
    try:
        yield growth
    finally:
        done.set()
        sampler.join()


def test_a_billion_parameters_take_no_memory_and_no_time() -> None:
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    start = time.monotonic()
    with resident_growth() as growth:
        module = build_module(config)
    assert sum(parameter.numel() for parameter in module.parameters()) > 1.2e9
    assert growth[0] < 100e6
    assert time.monotonic() - start < 10


def test_a_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: missing") as caught:
        load_source(tmp_path)
    assert "save_pretrained" in caught.value.hint
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        load_source(tmp_path)
    assert "adapter" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_config_that_is_not_a_json_object_says_so(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: not (a )?JSON"):
        load_source(folder)


@pytest.mark.parametrize("model_type", ["no-such-type", None, 7])
def test_an_unknown_type_is_named(folder: Path, model_type: object) -> None:
    change_config(folder, model_type=model_type)
    with pytest.raises(InputError, match=r"does not know the model type") as caught:
        load_source(folder)
    assert "update transformers" in caught.value.hint


def test_a_type_without_a_causal_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(InputError, match="no causal language model for type 't5'"):
        load_source(tmp_path)


def test_the_module_is_that_of_a_configuration_without_quantization(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    assert not hasattr(read_config(folder), "quantization_config")
    quantization = read_quantization(folder)
    assert quantization is not None and quantization.method == "gptq" and quantization.integer("bits") == 4


@pytest.mark.parametrize("changes", [{"hidden_size": "many"}, {"hidden_act": "no-such-function"}])
def test_a_config_that_transformers_rejects_is_named(folder: Path, changes: dict[str, object]) -> None:
    change_config(folder, **changes)
    with pytest.raises(InputError, match="transformers cannot"):
        load_source(folder)


class NoSdpaConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "no-sdpa"


class NoSdpa(PreTrainedModel):  # type: ignore[misc]
    config_class = NoSdpaConfig
    _supports_sdpa = False

    def __init__(self, config: NoSdpaConfig) -> None:
        super().__init__(config)
        self.output = nn.Linear(2, 2)
        self.post_init()


def test_attention_is_decomposed_where_a_class_has_no_other() -> None:
    AutoModelForCausalLM.register(NoSdpaConfig, NoSdpa)
    assert build_module(NoSdpaConfig()).config._attn_implementation == "eager"
    assert build_module(llama()).config._attn_implementation == "sdpa"


class TruncatedNormal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))
        nn.init.trunc_normal_(self.weight)


def test_an_initialisation_that_looks_at_values_is_left_out_by_transformers_alone() -> None:
    with pytest.raises(Refused):
        build_without_values(TruncatedNormal)
    module = build_module(ModernBertDecoderConfig(**{**SIZES, "pad_token_id": 0}))
    assert all(is_fake(parameter) for parameter in module.parameters())


def test_a_config_of_another_checkpoint_shows_when_a_weight_is_read(folder: Path) -> None:
    change_config(folder, intermediate_size=80)
    with pytest.raises(InputError, match=r"up_proj.* shape \[48, 32\], the module \[80, 32\]"):
        load_source(folder).weights.read("model.layers.0.mlp.up_proj.weight")
