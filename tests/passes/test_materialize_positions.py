"""Tables read at input_pos, masks classified, and what is no function of the position refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.passes import materialize_positions, position_tables
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, run_passes
from tests import models
from tests.attentions import added, alibi_from_the_end, later
from tests.models import CONTEXT, Change, Decoder, masked, tiny_llama


def bound(module: torch.nn.Module, context: int = CONTEXT) -> Program:
    options = Options(context, PATTERNS, lambda *_: None, CPU)
    last = [step.name for step in PASSES].index("materialize-positions")
    return run_passes(models.traced(module, context), options, PASSES[: last + 1])


def test_rotary_tables_are_rows_by_position() -> None:
    program = bound(tiny_llama())
    tables = {name: table for name, table in program.graph.named_buffers() if name.startswith("table_")}
    assert sorted(tuple(table.shape) for table in tables.values()) == [(CONTEXT, 8), (CONTEXT, 8)]
    angles = torch.arange(CONTEXT)[:, None] * 10000.0 ** -(torch.arange(8) % 4 / 4)
    expected = [angles.cos(), angles.sin()]
    for table in tables.values():
        assert any(torch.allclose(table, value, atol=1e-5) for value in expected)


def test_positions_are_gone_and_input_pos_is_there() -> None:
    inputs = [node.target for node in bound(tiny_llama()).graph.graph.find_nodes(op="placeholder")]
    assert inputs[:2] == ["tokens", "input_pos"]
    assert "positions" not in inputs


def attention(program: Program) -> dict[str, Any]:
    """The arguments of the one attention."""
    (call,) = program.graph.graph.find_nodes(op="call_function", target=ops.attention)
    return named_arguments(call)


MASKS: dict[str, tuple[Change, int, int]] = {
    "filled": (masked(lambda scores, row, column: scores.masked_fill(column > row, -torch.inf)), 0, 0),
    "filled with a large number": (
        masked(lambda scores, row, column: scores.masked_fill(column > row, -1e9)),
        0,
        0,
    ),
    "added": (
        masked(lambda scores, row, column: scores + torch.where(column > row, torch.finfo(torch.float32).min, 0.0)),
        0,
        0,
    ),
    "window": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) | (column <= row - 4), -1e9)),
        4,
        0,
    ),
    "itself alone": (masked(lambda scores, row, column: scores.masked_fill(column != row, -1e9)), 1, 0),
    "chunks": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) | (column // 4 < row // 4), -1e9)),
        0,
        4,
    ),
    "another size for each head": (
        masked(
            lambda scores, row, column: (
                scores + torch.where(column > row, -1e9, 0.0) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
            )
        ),
        0,
        0,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_mask_becomes_an_attribute(name: str) -> None:
    attend, window, chunk_size = MASKS[name]
    module = Decoder(attend=attend)
    given = attention(bound(module))
    assert (given["mask"], given["bias"], given["causal"]) == (None, None, True)
    assert (given["window"], given["chunk_size"]) == (window, chunk_size)
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


SLOPES = torch.tensor([0.5, 0.1]).view(1, 2, 1, 1)

BIASES: dict[str, Change] = {
    "by distance": masked(
        lambda scores, row, column: scores + torch.where(column > row, -1e9, SLOPES * (column - row))
    ),
    "by key": masked(lambda scores, row, column: (scores + SLOPES * column).masked_fill(column > row, -torch.inf)),
    "by distance from the end": masked(
        lambda scores, row, column: (scores + SLOPES * (column - scores.shape[-1])).masked_fill(column > row, -1e9)
    ),
    "within a window": masked(
        lambda scores, row, column: (scores + SLOPES * column).masked_fill((column > row) | (column <= row - 4), -1e9)
    ),
    "curved": masked(
        lambda scores, row, column: scores + torch.where(column > row, -1e9, -((row - column).clamp(min=0) ** 0.5))
    ),
    "curved for each head": masked(
        lambda scores, row, column: (scores + SLOPES * (1.0 + column) ** 0.5).masked_fill(column > row, -torch.inf)
    ),
    "every second": masked(
        lambda scores, row, column: scores.masked_fill((column > row) | ((row - column) % 2 == 1), -1e9)
    ),
}


@pytest.mark.parametrize("name", BIASES)
def test_what_else_a_mask_does_is_a_bias(name: str) -> None:
    module = Decoder(attend=BIASES[name])
    given = attention(bound(module))
    assert given["mask"] is None
    assert given["causal"] is True
    assert list(given["bias"].meta["val"].shape)[-1] == CONTEXT
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


@pytest.mark.parametrize("name", ["by distance", "by key", "by distance from the end", "within a window"])
def test_heads_that_do_not_fit_together_are_evaluated_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = bound(Decoder(attend=BIASES[name]))
    monkeypatch.setattr(position_tables, "_LONGEST_MASK", CONTEXT)
    apart = bound(Decoder(attend=BIASES[name]))
    assert apart.graph.code == together.graph.code
    buffers = dict(apart.graph.named_buffers())
    assert buffers.keys() == dict(together.graph.named_buffers()).keys()
    for place, numbers in together.graph.named_buffers():
        torch.testing.assert_close(buffers[place], numbers)
    assert attention(apart)["window"] == attention(together)["window"]


def test_heads_of_different_kinds_are_numbers_for_each_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(scores: Tensor, row: Tensor, column: Tensor) -> Tensor:
        far = (row - column).clamp(min=0)
        is_first = torch.tensor([True, False]).view(1, 2, 1, 1)
        return scores + torch.where(column > row, -1e9, torch.where(is_first, -0.25 * far, -((1.0 * far) ** 0.5)))

    monkeypatch.setattr(position_tables, "_LONGEST_MASK", CONTEXT)
    module = Decoder(attend=masked(change))
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_heads_that_do_not_fit_and_follow_no_rule_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_tables, "_LONGEST_MASK", CONTEXT)
    with pytest.raises(Refused, match="another for each head, by no rule"):
        bound(Decoder(attend=BIASES["curved for each head"]))


def test_a_head_that_grows_with_the_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_tables, "_LONGEST_MASK", CONTEXT)
    attend = masked(
        lambda scores, row, column: (scores + SLOPES * column / scores.shape[-1]).masked_fill(column > row, -1e9)
    )
    with pytest.raises(Refused, match="depends on how long"):
        bound(Decoder(attend=attend))


def test_slopes_need_no_table_of_the_context_squared() -> None:
    largest = max(table.numel() for _, table in bound(Decoder(attend=BIASES["by key"])).graph.named_buffers())
    assert largest <= CONTEXT


def _summed_strengths(is_seen: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Decoder, Tensor], Tensor]:
    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        slots = torch.arange(x.shape[1])
        scores = torch.sigmoid(x @ x.transpose(1, 2))
        return torch.where(is_seen(slots[:, None], slots[None]), scores, 0.0) @ x

    return attend


WINDOW = 4
SEEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "causal": lambda row, column: column <= row,
    "window": lambda row, column: (column <= row) & (column > row - WINDOW),
    "chunks": lambda row, column: (column <= row) & (column // WINDOW == row // WINDOW),
}


@pytest.mark.parametrize("name", SEEN)
def test_which_columns_a_row_sees_is_compared_and_needs_no_table(name: str) -> None:
    module = Decoder(attend=_summed_strengths(SEEN[name]))
    program = bound(module)
    assert max(table.numel() for _, table in program.graph.named_buffers()) <= CONTEXT
    tokens = models.random_ids()
    models.assert_same(
        models.logits_in_chunks(models.rewrite(module), module, tokens), models.logits_of_source(module, tokens)
    )


def test_a_table_too_large_for_a_file_is_refused_with_the_context_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialize_positions, "LARGEST_TABLE", 2 * 16 * 16 * 4)
    with pytest.raises(Refused, match="follow no known rule") as refusal:
        bound(Decoder(attend=BIASES["curved for each head"]))
    assert "at most 16 with --context" in refusal.value.hint
    bound(Decoder(attend=BIASES["curved for each head"]), context=16)


def test_a_bias_that_grows_with_the_length_is_refused() -> None:
    attend = masked(
        lambda scores, row, column: (scores + SLOPES * column / scores.shape[-1]).masked_fill(column > row, -1e9)
    )
    with pytest.raises(Refused, match="depends on how long"):
        bound(Decoder(attend=attend))


def test_beside_a_sink_a_bias_that_counts_from_the_end_is_refused() -> None:
    """What is the same for all scores of a row is not the same for the sink."""

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        query, key, value = decoder.heads(x)
        scores = query @ key.mT + added(query) + alibi_from_the_end(query)
        column = decoder.gain[:2].reshape(1, -1, 1, 1).expand(1, -1, x.shape[1], -1)
        return models.merged(torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1] @ value)

    with pytest.raises(Refused, match="depends on how long"):
        bound(Decoder(attend=attend))


REFUSED: dict[str, tuple[Change, str]] = {
    "later positions": (
        masked(lambda scores, row, column: scores.masked_fill(column > row + 1, -1e9)),
        "not causal: a position sees later ones",
    ),
    "prefix": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) & (column > 3), -1e9)),
        "not causal",
    ),
    "outside of attention": (
        masked(lambda scores, row, column: (scores.tanh() + torch.where(column > row, -1e9, 0.0)).relu()),
        "outside a fused attention",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_mask_is_refused_with_what_it_is(name: str) -> None:
    attend, what = REFUSED[name]
    with pytest.raises(Refused, match=what):
        bound(Decoder(attend=attend))


def by_length(change: Change) -> Decoder:
    return Decoder(mix=lambda d, x: x + change(d, x))


def test_a_base_that_grows_with_the_length_is_refused_with_both_lengths() -> None:
    def dynamic(decoder: Decoder, x: Tensor) -> Tensor:
        base = torch.full((), x.shape[1]).clamp(min=20).float()
        return torch.cos(torch.arange(x.shape[1])[:, None] / base ** (torch.arange(models.WIDTH) / models.WIDTH))

    with pytest.raises(Refused, match=rf"depends on how long the sequence is .*lengths \d+ and {CONTEXT}") as caught:
        bound(by_length(dynamic))
    assert (caught.value.shorter, "choose --context 20 or less" in caught.value.hint) == (20, True)


def test_positions_counted_from_the_end_are_refused() -> None:
    with pytest.raises(Refused, match="depends on how long") as caught:
        bound(by_length(lambda d, x: torch.arange(x.shape[1]).flip(0)[:, None] * 0.1))
    assert caught.value.shorter is None and "--context" not in caught.value.hint


@pytest.mark.parametrize("threshold", [2, 5, 11, 30])
def test_a_value_that_changes_beyond_a_length_is_refused_with_that_length(threshold: int) -> None:
    module = by_length(lambda d, x: torch.where(torch.full((), x.shape[1]) > threshold, 1.0, -1.0))
    with pytest.raises(Refused, match="depends on how long") as caught:
        bound(module)
    assert caught.value.shorter == (threshold if threshold > 2 else None)
    if threshold > 2:
        bound(module, threshold)


def test_a_value_that_changes_twice_has_no_longest_length() -> None:
    """Lengths from 9 to 20 are as the shortest, and one between them is not."""
    with pytest.raises(Refused, match="depends on how long") as caught:
        bound(by_length(lambda d, x: torch.isin(torch.full((), x.shape[1]), torch.tensor([8, *range(21, 99)])).float()))
    assert caught.value.shorter in (None, 7)


def test_a_mask_that_is_open_for_short_runs_is_refused() -> None:
    attend = masked(
        lambda scores, row, column: scores.masked_fill((column > row) & (torch.full((), scores.shape[-1]) > 5), -1e9)
    )
    with pytest.raises(Refused, match="depends on how long"):
        bound(Decoder(attend=attend))


def test_learned_positions_are_looked_up_at_input_pos() -> None:
    module = Decoder(lambda d, x: x + torch.nn.functional.embedding(torch.arange(x.shape[1]) + 2, d.rows))
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_learned_frequencies_are_multiplied_by_the_position() -> None:
    module = Decoder(lambda d, x: x + torch.sin(torch.arange(x.shape[1]).float()[:, None] * d.gain))
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_a_mask_too_large_to_evaluate_is_refused() -> None:
    with pytest.raises(Refused, match="would need 20000"):
        bound(Decoder(attend=MASKS["filled"][0]), context=20000)


def test_axes_before_the_sequence_stay_before_it() -> None:
    """A table [1, heads, s, 4], another for each head."""

    rates = torch.rand(4)

    def turned(decoder: Decoder, x: Tensor) -> Tensor:
        query, key, value = decoder.heads(x)
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([[1.0], [0.3]])[:, None] * rates
        return models.merged(F.scaled_dot_product_attention(query * angles.cos()[None], key, value, is_causal=True))

    module = Decoder(attend=turned)
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


LOOKUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": lambda numbers, rows: F.embedding(numbers, rows),
    "index": lambda numbers, rows: rows[numbers],
    "rows of a part": lambda numbers, rows: rows[:][numbers],
    "index_select": lambda numbers, rows: rows.index_select(0, numbers),
    "columns": lambda numbers, rows: rows.t()[:, numbers].t(),
}


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_context_beyond_the_learned_positions_is_refused_with_how_many_there_are(lookup: str, offset: int) -> None:
    def positions(decoder: Decoder, x: Tensor) -> Tensor:
        return x + LOOKUPS[lookup](torch.arange(x.shape[1]) + offset, decoder.rows)

    rows = 2 * CONTEXT
    assert bound(Decoder(positions), rows - offset).find_input(Role.INPUT_POS) is not None
    with pytest.raises(Refused, match=f"looks up row {rows} of a table of {rows}") as caught:
        bound(Decoder(positions), rows - offset + 1)
    assert caught.value.shorter == rows - offset


def test_a_mask_of_numbers_filled_in_the_shape_of_activations_is_one_of_positions() -> None:
    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        blocks = torch.where(torch.zeros_like(x, dtype=torch.int32)[..., 0] == 1, 0, -1)
        together = (blocks[:, :, None] == blocks[:, None]) & (blocks[:, :, None] >= 0)
        query, key, value = decoder.heads(x)
        mask = (~later(query) | together)[:, None]
        return models.merged(F.scaled_dot_product_attention(query, key, value, mask))

    module = Decoder(attend=attend)
    assert attention(bound(module))["causal"]
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_what_is_filled_for_activations_to_be_written_into_is_no_table() -> None:
    module = Decoder(lambda _, x: torch.zeros_like(x).scatter(-1, x.argsort(-1), x))
    program = bound(module)
    assert not dict(program.graph.named_buffers())
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_what_is_filled_keeps_the_type_of_activations() -> None:
    module = Decoder(lambda _, x: x * (torch.full_like(x, 0.3)[..., :1] * torch.arange(x.shape[1])[:, None]))
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_positions_as_floating_point_numbers_stay_such() -> None:
    def added(decoder: Decoder, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[1]).to(x.dtype)[None, :, None]

    module = Decoder(added)
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)
