"""MXFP4: the experts of gpt-oss, beside transformers' own decoder."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from autoconvert.errors import InputError
from autoconvert.source.source import load_source

from .packed import check, edit, integers, save

EXPERTS = "model.layers.0.mlp.experts"
CONFIG = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def gpt_oss() -> GptOssConfig:
    return GptOssConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=9,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    experts, inputs, outputs = weight.shape
    blocks = integers((experts, outputs, inputs // 32, 16), 0, 255).to(torch.uint8)
    scales = integers((experts, outputs, inputs // 32), 119, 124).to(torch.uint8)
    decoded = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    return {f"{name}_blocks": blocks, f"{name}_scales": scales}, decoded


def saved(folder: Path) -> dict[str, Tensor]:
    return save(folder, CONFIG, quantize, config=gpt_oss(), suffix=("up_proj", "down_proj"))


def test_experts_as_transformers_decodes_them(tmp_path: Path) -> None:
    check(tmp_path, saved(tmp_path), "2 weights are decoded from MXFP4, 4 bits in blocks of 32")


@pytest.mark.parametrize("part", ["blocks", "scales"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    saved(tmp_path)
    edit(tmp_path, {f"{EXPERTS}.gate_up_proj_{part}": None})
    with pytest.raises(InputError, match=rf"gate_up_proj_{part}: the checkpoint has no tensor for it"):
        load_source(tmp_path)


def test_scales_of_another_shape_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    edit(tmp_path, {f"{EXPERTS}.gate_up_proj_scales": torch.zeros(9, 64, 1, dtype=torch.uint8)})
    with pytest.raises(InputError, match=r"gate_up_proj_scales: shape \[9, 64, 1\], where \[9, 64, 2\] was expected"):
        load_source(tmp_path)
