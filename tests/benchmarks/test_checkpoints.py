"""A random checkpoint is a checkpoint: transformers loads all of it, and its tokenizer works."""

from pathlib import Path

import pytest
import torch
from checkpoints import SHAPES, save_tokenizer, shape_config, write_checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

PUBLISHED_PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-0.6b": 596_049_920,
    "smollm2-135m": 134_515_008,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "llama-3.1-8b": 8_030_261_248,
}


def tiny(model_type: str, **settings: object) -> PretrainedConfig:
    sizes = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    return AutoConfig.for_model(model_type, **{**sizes, **settings})


@pytest.mark.parametrize(
    "config",
    [
        tiny("llama", tie_word_embeddings=True),
        tiny("llama", tie_word_embeddings=False, attention_bias=True),
        tiny("gemma3_text"),
        tiny("gpt2"),
        tiny("mixtral", num_local_experts=4),
    ],
    ids=lambda config: config.model_type,
)
def test_transformers_loads_every_weight(config: PretrainedConfig, tmp_path: Path) -> None:
    write_checkpoint(config, tmp_path)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.bfloat16
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_weights_are_scaled_like_a_trained_model(tmp_path: Path) -> None:
    write_checkpoint(tiny("llama", hidden_size=256), tmp_path)
    layer = AutoModelForCausalLM.from_pretrained(tmp_path).model.layers[0]
    matrix, scale = layer.mlp.up_proj.weight.float(), layer.input_layernorm.weight.float()
    assert abs(matrix.mean()) < 0.002
    assert 0.019 < matrix.std() < 0.021
    assert 0.99 < scale.mean() < 1.01


def test_norms_scale_by_about_one_in_every_form_of_norm(tmp_path: Path) -> None:
    write_checkpoint(tiny("gemma3_text", hidden_size=256), tmp_path)
    norm = AutoModelForCausalLM.from_pretrained(tmp_path).model.layers[0].input_layernorm
    hidden = torch.randn(1, 64, 256, dtype=torch.bfloat16)
    assert 0.97 < norm(hidden).float().std() < 1.03


def test_shards_hold_the_same_weights_as_one_file(tmp_path: Path) -> None:
    for name, limit in (("one", 10**9), ("many", 8000)):
        write_checkpoint(tiny("llama"), tmp_path / name, shard_bytes=limit)
    assert (tmp_path / "one" / "model.safetensors").exists()
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 2
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("one", "many"))
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_checkpoint(tiny("llama"), tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("vocabulary", [259, 5000, 70000])
def test_the_tokenizer_has_the_model_s_vocabulary(vocabulary: int, tmp_path: Path) -> None:
    save_tokenizer(vocabulary, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Ahoj, světe! 你好 \U0001f600\n\tx = 1"
    ids = tokenizer.encode(text)
    assert len(tokenizer) == vocabulary
    assert tokenizer.decode(ids) == text
    assert max(tokenizer.all_special_ids) == vocabulary - 1
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).endswith("hi\n")


def test_a_larger_vocabulary_merges_bytes(tmp_path: Path) -> None:
    lengths = []
    for vocabulary in (259, 70000):
        save_tokenizer(vocabulary, tmp_path)
        lengths.append(len(AutoTokenizer.from_pretrained(tmp_path).encode("a sentence of some length")))
    assert lengths[1] < lengths[0] == len("a sentence of some length")


def test_a_vocabulary_without_room_for_every_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs 259 tokens, not 258"):
        save_tokenizer(258, tmp_path)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_published_number_of_parameters(shape: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape_config(shape))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED_PARAMETERS[shape]


def test_a_shape_can_be_cut_to_fewer_layers() -> None:
    assert shape_config("llama-3.2-1b", layers=2).num_hidden_layers == 2
    assert shape_config("llama-3.2-1b").num_hidden_layers == 16
