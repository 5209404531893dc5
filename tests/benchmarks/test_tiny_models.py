"""Small models of every type: each has a configuration, and no weight of them is trivial."""

import pytest
import torch
from tiny_models import CONFIGS, build, config_of, logits_of, sample_tokens, types


def test_every_type_of_transformers_has_a_configuration_and_no_other() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.json")) == types()


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "glm4_moe"])
def test_no_weight_is_constant(model_type: str) -> None:
    state = build(config_of(model_type)).state_dict()
    assert [name for name, value in state.items() if value.numel() > 1 and value.float().std() == 0] == []


def test_the_same_model_and_tokens_come_each_time() -> None:
    config = config_of("llama")
    tokens = sample_tokens(config, 40)
    assert tokens == sample_tokens(config, 40)
    assert torch.equal(logits_of(build(config), tokens), logits_of(build(config), tokens))


def test_sample_tokens_hold_the_one_for_padding() -> None:
    config = config_of("roberta")
    assert sample_tokens(config, 40).count(config.pad_token_id) >= 2
