"""A sample of the coverage matrix: types that together need every pattern, up to the checked stateful graph."""

import pytest
from examine import examine

from autoconvert.patterns import PATTERNS
from tests.modules_from_elsewhere.decoders import PATTERNS_OF

# Each with the patterns that it is here for; the whole matrix is `python benchmarks/coverage`.
SAMPLE: dict[str, set[str]] = {
    "bart": {"layer_norm"},
    "bloom": {
        "attention.over_merged_heads",
        "attention_scores.masked_again",
        "attention_scores.with_heads_apart",
        "gelu_tanh.factored",
    },
    "codegen": {"gelu_tanh", "rotary.interleaved"},
    "cohere2": {"layer_norm.written_out.without_bias"},
    "dbrx": {"experts.rows.transposed"},
    "doge": {"attention.biased_by_key"},
    "gemma3": {"gated_feed_forward.gelu_tanh"},
    "gemma4_text": {"rms_norm"},
    "gpt2": {"attention.native"},
    "gpt_oss": {"attention.with_sinks", "attention.shared.with_sinks", "experts.rows", "rotary.half.halves"},
    "granitemoe_swa": {"attention.with_sinks_as_gate", "experts.columns", "gated_feed_forward.silu.fused"},
    "llama": {"attention.shared", "gated_feed_forward.silu", "rotary.half"},
    "llama4_text": {"experts.all_for_one", "rotary.interleaved.halves"},
    "youtu": {"rotary.interleaved_to_half"},
    "modernbert-decoder": {"gated_feed_forward.gelu.fused", "layer_norm.without_bias"},
    "mpt": {"attention_scores.masked_and_filled"},
    "nanochat": {"rms_norm.without_weight", "rotary.half.backwards"},
    "olmo": {"layer_norm.without_weight"},
    "openai-gpt": {"attention.written_out", "attention_scores.filled", "attention_scores.scaled"},
    "opt": {"layer_norm"},
    "recurrent_gemma": {"gated_feed_forward.gelu_tanh.biased"},
    "vaultgemma": {"attention_scores.capped", "attention_scores.masked", "attention_scores.product"},
    "xglm": {"attention_scores.floored", "attention_scores.with_heads_apart.before_the_mask"},
    "xlstm": {"layer_norm.written_out.without_weight"},
    "zamba": {"gated_feed_forward.gelu"},
}


@pytest.mark.parametrize("model_type", SAMPLE)
def test_type_is_right_by_its_patterns(model_type: str) -> None:
    outcome = examine(model_type, "graph")
    assert (outcome.status, outcome.reason) == ("right", "")
    assert outcome.passed == ("trace", "fuse", "state")
    assert outcome.patterns.keys() >= SAMPLE[model_type]


def test_every_pattern_is_needed_somewhere() -> None:
    needed = set().union(*SAMPLE.values(), *PATTERNS_OF.values())
    assert {pattern.name for pattern in PATTERNS} == needed


def test_data_dependent_control_flow_is_refused_and_named() -> None:
    outcome = examine("blt", "graph")
    assert outcome.status == "refused"
    # It branches on both, and what was traced before in a process decides which is met first.
    assert "data-dependent" in outcome.reason or "decides by the length" in outcome.reason
    assert "modeling_blt.py:" in outcome.reason


def test_what_is_no_model_of_tokens_is_said() -> None:
    assert examine("musicgen", "graph").status == "not buildable"
