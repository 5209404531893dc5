"""What is found in whole models, what nearly is, and that each pattern is needed for what it covers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.program import Program
from autoconvert.ops.feed_forward import ACTIVATIONS
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.fuse import fuse
from autoconvert.patterns import PATTERNS
from tests import models
from tests.attentions import ATTENTIONS, NEAR
from tests.models import Change, Decoder, tiny_llama


def fused(module: nn.Module, without: str = "") -> Program:
    program = models.traced(module)
    patterns = [pattern for pattern in PATTERNS if pattern.name != without]
    return fuse(program.with_graph(canonicalize(program.graph, program.weights)), patterns, lambda *_: None)


def sigmoid_attention(decoder: Decoder, x: Tensor) -> Tensor:
    """Its scores are those of an attention, and what follows is none: masked, and without a softmax."""
    query, key, value = decoder.heads(x)
    later = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    return models.merged((query @ key.mT * 0.5 + later).sigmoid() @ value)


def test_what_grew_in_part_is_what_it_was() -> None:
    def described(graph: fx.Graph) -> list[tuple[object, ...]]:
        return [
            (n.name, n.target, n.args, n.meta.get("stack_trace"), n.meta.get("nn_module_stack")) for n in graph.nodes
        ]

    program = models.traced(Decoder(attend=sigmoid_attention))
    program = program.with_graph(canonicalize(program.graph, program.weights))
    before = described(program.graph.graph)
    after = fuse(program, PATTERNS, lambda *_: None)
    assert after.fusion.patterns.keys() == {
        "attention_scores.product",
        "attention_scores.scaled",
        "attention_scores.masked",
    }
    assert [str(each) for each in described(after.graph.graph)] == [str(each) for each in before]


# An attention in which each pattern of one is found.
ATTENTION_OF = {
    "attention.native": "native",
    "attention.native.causal": "native causal",
    "attention.native.grouped": "native grouped",
    "attention.native.grouped.causal": "native grouped causal",
    "attention.shared": "native shared",
    "attention.biased_by_key": "biased by key",
    "attention.shared.causal": "native shared causal",
    "attention.shared.with_sinks": "shared sinks",
    "attention.with_sinks": "sinks",
    "attention.with_sinks_as_gate": "sinks as a gate",
    "attention.written_out": "mask added",
    "attention.over_merged_heads": "merged heads",
    "attention_scores.product": "query scaled",
    "attention_scores.scaled": "mask added",
    "attention_scores.capped": "capped",
    "attention_scores.masked": "mask added",
    "attention_scores.masked_again": "filled, then added to",
    "attention_scores.filled": "filled",
    "attention_scores.masked_and_filled": "added to, then filled",
    "attention_scores.floored": "floored",
    "attention_scores.scaled_with_mask": "scaled after the mask",
    "attention_scores.with_heads_apart": "merged heads",
    "attention_scores.with_heads_apart.before_the_mask": "merged heads for the softmax",
}


def norm(name: str) -> Change:
    def written_out(x: Tensor) -> Tensor:
        return (x - x.mean(-1, True)) / ((x - x.mean(-1, True)).pow(2).mean(-1, True) + 1e-5).sqrt()

    written = {
        "rms_norm": lambda d, x: x * (x.pow(2).mean(-1, True) + 1e-6).rsqrt() * d.gain,
        "rms_norm.without_weight": lambda d, x: x * (x.pow(2).mean(-1, True) + 1e-6).rsqrt(),
        "rms_norm.native": lambda d, x: F.rms_norm(x, (models.WIDTH,), d.gain, 1e-6),
        "rms_norm.native.without_weight": lambda d, x: F.rms_norm(x, (models.WIDTH,)),
        "layer_norm": lambda d, x: F.layer_norm(x, (models.WIDTH,), d.gain, d.offset),
        "layer_norm.without_bias": lambda d, x: F.layer_norm(x, (models.WIDTH,), d.gain),
        "layer_norm.without_weight": lambda d, x: F.layer_norm(x, (models.WIDTH,), eps=1e-6),
        "layer_norm.written_out": lambda d, x: written_out(x) * d.gain + d.offset,
        "layer_norm.written_out.without_bias": lambda d, x: written_out(x) * d.gain,
        "layer_norm.written_out.without_weight": lambda d, x: written_out(x),
    }
    return written[name]


def activation(name: str) -> Change:
    root = (2 / torch.pi) ** 0.5
    written = {
        "gelu_tanh": lambda d, x: 0.5 * x * (1 + torch.tanh(root * (x + 0.044715 * x**3))),
        "gelu_tanh.factored": lambda d, x: 0.5 * x * (1 + torch.tanh(root * x * (1 + 0.044715 * x * x))),
    }
    return written[name]


def interleave(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), -1).flatten(-2)


QUARTER_TURN = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0], [0, -1, 0, 0]])


def rotation(name: str) -> Change:
    """Queries and keys turned as the rotary pattern of this name has it."""
    written: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "rotary.half": lambda x, c, s: x * twice(c) + torch.cat((-x[..., 2:], x[..., :2]), -1) * twice(s),
        "rotary.half.backwards": lambda x, c, s: x * twice(c) + torch.cat((x[..., 2:], -x[..., :2]), -1) * twice(s),
        "rotary.rolled": lambda x, c, s: x * twice(c) + x.roll(2, -1) * torch.cat((-s, s), -1),
        "rotary.rolled.signs": lambda x, c, s: x * twice(c) + x @ QUARTER_TURN * twice(s),
        "rotary.half.halves": lambda x, c, s: torch.cat(
            (x[..., :2] * c - x[..., 2:] * s, x[..., 2:] * c + x[..., :2] * s), -1
        ),
        "rotary.interleaved": lambda x, c, s: (
            x * interleave(c, c) + interleave(-x[..., 1::2], x[..., ::2]) * interleave(s, s)
        ),
        "rotary.interleaved.halves": lambda x, c, s: interleave(
            x[..., ::2] * c - x[..., 1::2] * s, x[..., 1::2] * c + x[..., ::2] * s
        ),
        "rotary.interleaved_to_half": lambda x, c, s: torch.cat(
            (x[..., ::2] * c - x[..., 1::2] * s, x[..., 1::2] * c + x[..., ::2] * s), -1
        ),
    }

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])
        query, key, value = decoder.heads(x)
        query, key = (written[name](heads, angles.cos(), angles.sin()) for heads in (query, key))
        return models.merged(F.scaled_dot_product_attention(query, key, value, is_causal=True))

    return attend


def twice(table: Tensor) -> Tensor:
    return torch.cat((table, table), -1)


def feed_forward(name: str) -> Change:
    _, activation, *rest = name.split(".")
    function = ACTIVATIONS[activation]

    def mix(decoder: Decoder, x: Tensor) -> Tensor:
        gate, up, down = (layer.weight for layer in (decoder.query, decoder.key, decoder.value))
        if "fused" in rest:
            first, second = F.linear(x, torch.cat((gate, up))).chunk(2, -1)
            return F.linear(function(first) * second, down)
        biases = [layer.bias if rest else None for layer in (decoder.query, decoder.key, decoder.value)]
        return F.linear(function(F.linear(x, gate, biases[0])) * F.linear(x, up, biases[1]), down, biases[2])

    return mix


def decoder_for(name: str) -> Decoder:
    """A decoder that uses the block of the pattern of this name."""
    if name in ATTENTION_OF:
        return Decoder(attend=ATTENTIONS[ATTENTION_OF[name]])
    if name.startswith("rotary."):
        return Decoder(attend=rotation(name))
    if name.startswith("gated"):
        return Decoder(feed_forward(name))
    return Decoder(norm(name) if "norm" in name else activation(name))


# Experts have models of their own, beside their patterns.
NAMES = [pattern.name for pattern in PATTERNS if pattern.block != "experts"]


@pytest.mark.parametrize("name", NAMES)
def test_each_pattern_covers_a_block_of_a_model_and_the_model_stays_the_same(name: str) -> None:
    module = decoder_for(name)
    program = models.rewrite(module)
    assert program.fusion.patterns.get(name), program.fusion
    models.assert_chunks_give_what_the_model_gives(program, module)


@pytest.mark.parametrize("name", NAMES)
def test_without_its_pattern_a_block_stays_as_it_was_written(name: str) -> None:
    module = decoder_for(name)
    with_it, without = fused(module), fused(module, without=name)
    assert name in with_it.fusion.patterns
    assert name not in without.fusion.patterns
    assert str(without.graph.graph) != str(with_it.graph.graph)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_attention_is_found_in_every_way_of_writing_it(name: str) -> None:
    module = Decoder(attend=ATTENTIONS[name])
    program = models.rewrite(module)
    assert program.fusion.blocks == {"attention": 1}
    models.assert_chunks_give_what_the_model_gives(program, module)


# Of these, those in which no row sees a later position.
COMPARED = {"filled by a sum in part", "biased by query", "scaled after the cap and the mask"}


@pytest.mark.parametrize("name", sorted(NEAR.keys() - COMPARED))
def test_what_is_near_an_attention_and_sees_later_positions_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        models.rewrite(Decoder(attend=NEAR[name]))


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_what_is_near_an_attention_and_causal_gives_what_the_model_gives(name: str) -> None:
    module = Decoder(attend=NEAR[name])
    program = models.rewrite(module)
    models.assert_chunks_give_what_the_model_gives(program, module)


@pytest.mark.parametrize("name", sorted(ATTENTIONS))
def test_without_its_patterns_an_attention_is_refused_or_compared_with_slots(name: str) -> None:
    module = Decoder(attend=ATTENTIONS[name])
    patterns = [pattern for pattern in PATTERNS if not pattern.block.startswith("attention")]
    try:
        program = models.rewrite(module, patterns=patterns)
    except Refused:
        return
    assert program.graph.graph.find_nodes(op="call_function", target=ops.write_slots)
    models.assert_chunks_give_what_the_model_gives(program, module)


def test_scores_without_a_softmax_stay_as_they_were_written() -> None:
    module = Decoder(attend=NEAR["softmax over queries"])
    assert not fused(module).graph.graph.find_nodes(op="call_function", target=ops.attention_scores)
    tokens = models.random_ids()
    logits = models.execute(fused(module), module, tokens)["logits"][0]
    models.assert_same(logits, models.logits_of_source(module, tokens))


def test_llama_is_fused_block_by_block() -> None:
    fusion = fused(tiny_llama()).fusion
    assert fusion.blocks == {"norm": 5, "rotary": 4, "attention": 2, "feed_forward": 2}


@pytest.mark.parametrize("block", ["norm", "rotary", "attention", "feed_forward"])
def test_a_llama_is_another_graph_without_a_block(block: str) -> None:
    module = tiny_llama()
    patterns = [pattern for pattern in PATTERNS if pattern.block != block]
    program = models.rewrite(module, patterns=patterns)
    assert block not in program.fusion.blocks
    models.assert_chunks_give_what_the_model_gives(program, module, 97)


def test_recognition_keeps_the_numbers() -> None:
    module = tiny_llama()
    tokens = models.random_ids(vocabulary=97)
    logits = models.execute(fused(module), module, tokens)["logits"][0]
    models.assert_same(logits, models.logits_of_source(module, tokens))


def test_the_nearest_miss_says_what_is_different() -> None:
    program = fused(Decoder(lambda d, x: x * (x.pow(2).sum(-1, True) + 1e-6).rsqrt() * d.gain))
    nearest = program.fusion.nearest()[0]
    assert nearest.pattern.startswith("rms_norm")
    assert "the pattern expects mean" in nearest.reason
    assert 0 < nearest.matched < nearest.of


def test_a_miss_is_forgotten_where_another_pattern_matched() -> None:
    misses = fused(Decoder(norm("rms_norm"))).fusion.near_misses
    assert not [miss for miss in misses if miss.pattern.startswith("rms_norm")]


def test_a_refused_mask_names_a_pattern_that_came_near_to_what_is_masked() -> None:
    """All operations of a product matched elsewhere."""

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        query, key, value = decoder.heads(x)
        slots = torch.arange(x.shape[1])
        scores = (query[:, :, :, None] * key[:, :, None]).sum(-1).sigmoid()
        return models.merged(scores.where(slots <= slots[:, None], 0.0).exp2() @ value)

    with pytest.raises(Refused, match="attention") as refusal:
        models.rewrite(Decoder(attend=attend))
    assert "Nearest: pattern attention_scores.filled matched 2 of 3" in refusal.value.hint


def test_refusal_ends_with_the_nearest_pattern() -> None:
    with pytest.raises(Refused) as refusal:
        models.rewrite(Decoder(attend=NEAR["filled with too little"]))
    assert "Nearest: pattern attention_scores.filled" in refusal.value.hint
    assert "masked scores become -3.0, which hides nothing" in refusal.value.hint


def test_query_and_key_of_one_shape_stay_apart() -> None:
    module = tiny_llama(num_key_value_heads=4)
    graph = fused(module).graph.graph
    tokens = models.random_ids(vocabulary=97)
    for attention in graph.find_nodes(op="call_function", target=ops.attention):
        assert attention.args[0] is not attention.args[1]
    logits = models.execute(fused(module), module, tokens)["logits"][0]
    models.assert_same(logits, models.logits_of_source(module, tokens))
