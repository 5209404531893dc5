"""Caches as the runtime names and lays them out, and chunks that give what one run gives."""

import pytest
import torch

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.editing import set_arguments
from autoconvert.ir.nodes import named_arguments
from autoconvert.ops.attention import CLOSED
from tests import models
from tests.models import CONTEXT, Decoder, masked, tiny_llama

WINDOW = 4


def windowed() -> Decoder:
    hidden = masked(lambda scores, row, column: scores.masked_fill((column > row) | (column <= row - WINDOW), -1e9))
    return Decoder(attend=hidden)


def test_states_have_the_names_and_layouts_of_the_runtime() -> None:
    states = models.rewrite(tiny_llama(num_key_value_heads=2, head_dim=12)).states
    assert [(state.name, state.shape, state.kind, state.sequence_axis) for state in states] == [
        ("kv_cache_k_0", (1, 2, CONTEXT, 12), "key", 2),
        ("kv_cache_v_0", (1, 2, CONTEXT, 12), "value", 2),
        ("kv_cache_k_1", (1, 2, CONTEXT, 12), "key", 2),
        ("kv_cache_v_1", (1, 2, CONTEXT, 12), "value", 2),
    ]
    assert {state.dtype for state in states} == {torch.float32}


def test_inputs_and_outputs_are_those_of_the_contract() -> None:
    program = models.rewrite(tiny_llama())
    states = [state.name for state in program.states]
    inputs = [str(node.target) for node in program.graph.graph.find_nodes(op="placeholder")]
    assert inputs[: 3 + len(states)] == ["tokens", "input_pos", "mask", *states]
    assert set(inputs[3 + len(states) :]) == set(program.weights)
    assert list(program.graph.graph.output_node().args[0]) == ["logits", *states]  # type: ignore[arg-type]


def test_keys_are_written_at_the_positions_and_nowhere_else() -> None:
    module = Decoder()
    program = models.rewrite(module)
    tokens = models.random_ids(5)
    results = models.execute(program, module, tokens)
    with torch.no_grad():
        _, key, value = module.heads(module.embed(torch.tensor([tokens])))
    torch.testing.assert_close(results["kv_cache_k_0"][:, :, :5], key)
    torch.testing.assert_close(results["kv_cache_v_0"][:, :, :5], value)
    assert not results["kv_cache_k_0"][:, :, 5:].any()
    assert not results["kv_cache_v_0"][:, :, 5:].any()


SPLITS = {
    "one run": ((19, 19),),
    "padded run": ((19, 24),),
    "token by token": ((1, 1),) * 19,
    "padding in every chunk": ((3, 5), (2, 5), (4, 5), (1, 5), (5, 5), (4, 5)),
    "chunks shorter than the window": ((2, 2), (3, 3), (2, 4), (1, 1), (11, 11)),
    "up to the last slot": ((9, 9), (1, 1), (9, 22)),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["causal", "window"])
def test_chunks_give_what_one_run_gives(kind: str, split: str) -> None:
    module = windowed() if kind == "window" else Decoder()
    program = models.rewrite(module)
    tokens = models.random_ids()
    logits = models.logits_in_chunks(program, module, tokens, SPLITS[split])
    models.assert_same(logits, models.logits_of_source(module, tokens))


def test_a_wrong_window_is_seen_by_the_chunks() -> None:
    module = windowed()
    program = models.rewrite(module)
    (attention,) = program.graph.graph.find_nodes(op="call_function", target=ops.cached_attention)
    assert named_arguments(attention)["window"] == WINDOW
    set_arguments(attention, window=WINDOW + 1)
    tokens = models.random_ids()
    logits, expected = (
        models.logits_in_chunks(program, module, tokens),
        models.logits_of_source(module, tokens),
    )
    models.assert_same(logits[:WINDOW], expected[:WINDOW])
    with pytest.raises(AssertionError):
        models.assert_same(logits, expected)


def test_a_fully_closed_row_gives_numbers() -> None:
    module = Decoder()
    program = models.rewrite(module)
    (attention,) = program.graph.graph.find_nodes(op="call_function", target=ops.cached_attention)
    query, key = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    caches = torch.zeros(1, 2, CONTEXT, 4), torch.zeros(1, 2, 4, CONTEXT)
    mask = torch.full((1, 1, 3, CONTEXT), CLOSED)
    out, *_ = attention.target(query, key, key, *caches, torch.zeros(3, dtype=torch.int32), mask, 2, 3, 0.5, 0)
    assert out.isfinite().all()


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(Refused, match="No attention was fused and no scan was found"):
        models.rewrite(Decoder(attend=lambda decoder, x: x))
