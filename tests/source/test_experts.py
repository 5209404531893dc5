"""Experts are computed pair by pair while a model is traced, and as before otherwise."""

from torch import nn
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from autoconvert.source.experts import PAIRS, experts_as_pairs
from tests.source.tiny import llama


def mixtral() -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    return MixtralForCausalLM(config)


def test_the_choice_holds_inside_and_is_taken_back() -> None:
    model = mixtral()
    before = model.get_experts_implementation()
    with experts_as_pairs(nn.Sequential(model)):
        assert model.get_experts_implementation() == {"": PAIRS}
    assert model.get_experts_implementation() == before != {"": PAIRS}


def test_it_is_taken_back_after_a_failure() -> None:
    model = mixtral()
    before = model.get_experts_implementation()
    try:
        with experts_as_pairs(model):
            raise ValueError
    except ValueError:
        assert model.get_experts_implementation() == before


def test_models_without_experts_stay_as_they_are() -> None:
    model = LlamaForCausalLM(llama())
    before = model.get_experts_implementation()
    with experts_as_pairs(model), experts_as_pairs(nn.Linear(2, 2)):
        assert model.get_experts_implementation() == before
