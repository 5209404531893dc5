"""Tables read at input_pos, masks recognised, and what is no function of the position refused."""

import pytest
import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.passes.bind_positions import CausalMask, recognise_mask
from autoconvert.patterns import PATTERNS
from autoconvert.pipeline import PASSES, Options, run_passes
from autoconvert.program import Program
from tests import models
from tests.models import CONTEXT, Change, Decoder, masked, tiny_llama


def bound(module: torch.nn.Module, context: int = CONTEXT) -> Program:
    options = Options(context, PATTERNS, lambda *_: None)
    return run_passes(models.traced(module, context), options, PASSES[:4])


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


def windows(program: Program) -> list[tuple[object, ...]]:
    """(mask, causal, window) of every attention."""
    calls = program.graph.graph.find_nodes(op="call_function", target=ops.attention)
    return [(call.args[3], call.args[5], (*call.args[6:], 0)[0]) for call in calls]


MASKS: dict[str, tuple[Change, int]] = {
    "filled": (masked(lambda scores, row, column: scores.masked_fill(column > row, -torch.inf)), 0),
    "filled with a large number": (
        masked(lambda scores, row, column: scores.masked_fill(column > row, -1e9)),
        0,
    ),
    "added": (
        masked(lambda scores, row, column: scores + torch.where(column > row, torch.finfo(torch.float32).min, 0.0)),
        0,
    ),
    "window": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) | (column <= row - 4), -1e9)),
        4,
    ),
    "itself alone": (masked(lambda scores, row, column: scores.masked_fill(column != row, -1e9)), 1),
}


@pytest.mark.parametrize("name", MASKS)
def test_mask_becomes_an_attribute(name: str) -> None:
    attend, window = MASKS[name]
    module = Decoder(attend=attend)
    assert windows(bound(module)) == [(None, True, window)]
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


REFUSED: dict[str, tuple[Change, str]] = {
    "later positions": (
        masked(lambda scores, row, column: scores.masked_fill(column > row + 1, -1e9)),
        "not causal: a position sees later ones",
    ),
    "alibi": (
        masked(lambda scores, row, column: scores + torch.where(column > row, -1e9, (column - row) * 0.5)),
        "a bias",
    ),
    "different for each head": (
        masked(
            lambda scores, row, column: (
                scores + torch.where(column > row, -1e9, 0.0) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
            )
        ),
        "different for each head",
    ),
    "every second": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) | ((row - column) % 2 == 1), -1e9)),
        "neither causal nor a sliding window",
    ),
    "in blocks": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) | (column // 4 < row // 4), -1e9)),
        "neither causal nor a sliding window",
    ),
    "prefix": (
        masked(lambda scores, row, column: scores.masked_fill((column > row) & (column > 3), -1e9)),
        "not causal",
    ),
    "outside of attention": (
        masked(lambda scores, row, column: (scores.tanh() + torch.where(column > row, -1e9, 0.0)).relu()),
        "outside a recognised attention",
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

    with pytest.raises(Refused, match=rf"depends on how long the sequence is .*lengths \d+ and {CONTEXT}"):
        bound(by_length(dynamic))


def test_positions_counted_from_the_end_are_refused() -> None:
    with pytest.raises(Refused, match="depends on how long"):
        bound(by_length(lambda d, x: torch.arange(x.shape[1]).flip(0)[:, None] * 0.1))


@pytest.mark.parametrize("threshold", [2, 5, 11, 30])
def test_a_value_that_changes_beyond_a_length_is_refused(threshold: int) -> None:
    with pytest.raises(Refused, match="depends on how long"):
        bound(by_length(lambda d, x: torch.where(torch.full((), x.shape[1]) > threshold, 1.0, -1.0)))


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


TABLES = {
    "causal": (torch.ones(6, 6).tril() > 0, CausalMask(0)),
    "causal, added": (torch.full((1, 1, 6, 6), -torch.inf).triu(1), CausalMask(0)),
    "window of three": ((torch.ones(6, 6).tril() > 0).triu(-2), CausalMask(3)),
    "window wider than the table": ((torch.ones(6, 6).tril() > 0).triu(-9), CausalMask(0)),
    "all open": (torch.ones(6, 6) > 0, "not causal: a position sees later ones"),
    "all closed": (torch.ones(6, 6) < 0, "neither causal nor a sliding window"),
    "almost open": (torch.full((6, 6), -9e3).triu(1), "neither open nor closed at each position, but a bias"),
    "two heads": (torch.zeros(2, 6, 6), "different for each head"),
}


@pytest.mark.parametrize("name", TABLES)
def test_mask_table_is(name: str) -> None:
    table, expected = TABLES[name]
    assert recognise_mask(table) == expected
