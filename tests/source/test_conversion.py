"""Names and stacks of checkpoints against what transformers itself makes of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    DeepseekV3Config,
    Gemma3Config,
    GPTNeoXConfig,
    JambaConfig,
    LlamaModel,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from autoconvert.errors import InputError
from autoconvert.source.checkpoint import open_checkpoint
from autoconvert.source.conversion import plan_conversion
from autoconvert.source.module_weights import ModuleWeights
from autoconvert.source.source import load_source

from .tiny import SIZES, Recording, build, gemma3, llama, load, mixtral

EXPERTS = "model.layers.1.mlp.experts.gate_up_proj"
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mixtral": mixtral(),
    "qwen3-moe": Qwen3MoeConfig(**SIZES, **MOE),
    "deepseek-v3": DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4, "head_dim": 8},
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "jamba": JambaConfig(**SIZES, num_experts=4, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False),
    "gpt-neox": GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    ),
    "gemma3-with-vision": Gemma3Config(
        text_config=gemma3().to_dict(),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    ),
}


@pytest.fixture
def old_mixtral(tmp_path: Path) -> Path:
    """A Mixtral whose file has one tensor per expert, as checkpoints are published."""
    build(mixtral(), torch.bfloat16).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "model.layers.1.block_sparse_moe.experts.3.w1.weight" in file.keys()  # noqa: SIM118
    return tmp_path


def recorded(folder: Path) -> tuple[ModuleWeights, Recording]:
    module = load_source(folder).module
    checkpoint = Recording(open_checkpoint(folder))
    return ModuleWeights(module, checkpoint, plan_conversion(module, checkpoint).derivations), checkpoint


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_equals_what_transformers_loads(name: str, tmp_path: Path) -> None:
    build(CONFIGS[name]).save_pretrained(tmp_path)
    source = load_source(tmp_path)
    for parameter_name, parameter in load(tmp_path).named_parameters(remove_duplicate=False):
        assert torch.equal(source.weights.read(parameter_name), parameter), parameter_name
        assert source.weights.shape(parameter_name) == tuple(parameter.shape)
        rows = source.weights.read_rows(parameter_name, 1, parameter.shape[0])
        assert torch.equal(rows, parameter[1:]), parameter_name
    assert not source.unmatched


def test_stacked_experts_keep_the_files_dtype(old_mixtral: Path) -> None:
    weights = load_source(old_mixtral).weights
    stacked = weights.read(EXPERTS)
    assert stacked.dtype == weights.dtype(EXPERTS) == torch.bfloat16
    assert weights.nbytes(EXPERTS) == stacked.nbytes
    assert torch.equal(stacked.float(), load(old_mixtral).get_parameter(EXPERTS))


def test_names_that_are_the_modules_already_stay(old_mixtral: Path) -> None:
    loaded = load(old_mixtral)
    save_file(loaded.state_dict(), old_mixtral / "model.safetensors", metadata={"format": "pt"})
    weights = load_source(old_mixtral).weights
    for name, parameter in loaded.named_parameters():
        assert torch.equal(weights.read(name), parameter), name


def test_planning_reads_nothing(old_mixtral: Path) -> None:
    weights, checkpoint = recorded(old_mixtral)
    assert weights.shape(EXPERTS) == (4, 96, 32)
    assert checkpoint.read_names == []


def test_one_expert_reads_its_own_tensors_alone(old_mixtral: Path) -> None:
    weights, checkpoint = recorded(old_mixtral)
    expert = weights.read_rows(EXPERTS, 2, 3)
    assert torch.equal(expert.float(), load(old_mixtral).get_parameter(EXPERTS)[2:3])
    layer = "model.layers.1.block_sparse_moe.experts.2"
    assert sorted(checkpoint.read_names) == [f"{layer}.w1.weight", f"{layer}.w3.weight"]


def test_a_renamed_tensor_reads_its_one_tensor(old_mixtral: Path) -> None:
    weights, checkpoint = recorded(old_mixtral)
    weights.read("model.layers.0.mlp.gate.weight")
    assert checkpoint.read_names == ["model.layers.0.block_sparse_moe.gate.weight"]


def test_a_missing_expert_is_noticed(old_mixtral: Path) -> None:
    tensors = load_file(old_mixtral / "model.safetensors")
    for part in ("w1", "w3"):
        del tensors[f"model.layers.1.block_sparse_moe.experts.2.{part}.weight"]
    save_file(tensors, old_mixtral / "model.safetensors")
    with pytest.raises(InputError, match=r"gate_up_proj .*shape \[3, 96, 32\], the module \[4, 96, 32\]"):
        load_source(old_mixtral).weights.read(EXPERTS)


def test_half_an_expert_missing_is_noticed(old_mixtral: Path) -> None:
    tensors = load_file(old_mixtral / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
    save_file(tensors, old_mixtral / "model.safetensors")
    with pytest.raises(InputError, match=r"gate_up_proj cannot be put together from 7 tensors"):
        load_source(old_mixtral)


def test_a_checkpoint_of_the_base_model_gets_the_prefix(tmp_path: Path) -> None:
    config = llama(tie_word_embeddings=True)
    base = build(config).model
    assert isinstance(base, LlamaModel)
    base.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    weights = load_source(tmp_path).weights
    for name, parameter in load(tmp_path).named_parameters(remove_duplicate=False):
        assert torch.equal(weights.read(name), parameter), name


def test_a_part_of_a_fused_projection_reads_its_rows_alone(tmp_path: Path) -> None:
    from transformers.core_model_loading import Chunk, WeightConverter

    from autoconvert.source.conversion import _converted

    fused = torch.randn(12, 5)
    save_file({"qkv": fused}, tmp_path / "model.safetensors")
    checkpoint = Recording(open_checkpoint(tmp_path))
    converter = WeightConverter("qkv", ["q", "k", "v"], operations=[Chunk(dim=0)])
    module = nn.Module()
    module.config = None  # type: ignore[assignment]
    derivations = _converted(module, checkpoint, "q", converter, {"qkv": ("qkv",)})
    assert torch.equal(derivations["k"].read(checkpoint), fused[4:8])
    assert torch.equal(derivations["v"].read_rows(checkpoint, 1, 3), fused[9:11])
    assert checkpoint.sizes == [20, 10]


def test_tensors_without_a_place_say_why(tmp_path: Path) -> None:
    build(llama()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "vision.weight": torch.ones(2, 2)}
    save_file(tensors | extra, path, metadata={"format": "pt"})
    unmatched = load_source(tmp_path).unmatched
    assert unmatched.keys() == extra.keys()
    assert unmatched["vision.weight"] == "the module has no such tensor"


def test_a_plain_module_takes_names_as_they_are(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3, 2), "other": torch.ones(1)}, tmp_path / "model.safetensors")
    plan = plan_conversion(nn.Linear(2, 3), open_checkpoint(tmp_path))
    assert plan.derivations.keys() == {"weight"}
    assert plan.unmatched.keys() == {"other"}


def test_the_index_and_the_header_are_enough_for_a_sharded_stack(tmp_path: Path) -> None:
    build(mixtral()).save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    weights = load_source(tmp_path).weights
    for name, parameter in load(tmp_path).named_parameters():
        assert torch.equal(weights.read(name), parameter), name
