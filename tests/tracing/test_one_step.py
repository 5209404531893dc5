"""A model that runs token by token converts by its own path for a single token."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.check.graph import check_graph
from autoconvert.check.parity import Reference
from autoconvert.errors import CheckFailed, Refused
from autoconvert.lowering.cpu import CPU
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, run_passes
from autoconvert.scan.scan import unrolls
from autoconvert.tracing.past import past_of
from tests.models import (
    CONTEXT,
    VOCABULARY,
    WIDTH,
    assert_chunks_give_what_the_model_gives,
    rewrite,
    tiny_llama,
    weights_of,
)
from tests.steps import Recurrent, Update, step_of


def decaying(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A diagonal recurrence whose decay depends on the token."""
    state = state * torch.sigmoid(model.first(x)) + x
    return model.second(state), state


def outer_product(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix state that a delta rule corrects."""
    key = torch.nn.functional.normalize(model.first(x), dim=-1)
    missing = x - (state * key[:, None]).sum(-1)
    state = state + missing[:, :, None] * key[:, None]
    return (state * model.second(x)[:, None]).sum(-1), state


def convolving(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A short convolution over the last three values."""
    window = torch.cat([state, x[:, :, None]], -1)
    return model.first((window * model.kernel).sum(-1)), window[:, :, 1:]


def shifting(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Only the value before."""
    return model.first(state) * torch.sigmoid(model.second(x)), x


def across_texts(model: Recurrent, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes the batch: what no batch of steps may do."""
    state = state * 0.5 + x.mean(0, keepdim=True).expand_as(x)
    return model.first(state), state


UPDATES: dict[str, tuple[Update, tuple[int, ...]]] = {
    "decaying": (decaying, (WIDTH,)),
    "outer product": (outer_product, (WIDTH, WIDTH)),
    "convolving": (convolving, (WIDTH, 2)),
    "shifting": (shifting, (WIDTH,)),
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_recurrent_model_in_chunks_gives_its_own_logits(name: str) -> None:
    update, state = UPDATES[name]
    module = Recurrent(update, *state)
    program = rewrite(module)
    assert [s.shape for s in program.states] == [(1, *state)] * 2
    assert_chunks_give_what_the_model_gives(program, module)


def test_the_states_of_a_convolution_have_the_name_that_the_runtime_gives_them() -> None:
    names = [state.name for state in rewrite(Recurrent(convolving, WIDTH, 2)).states]
    assert names == ["kv_cache_c_0", "kv_cache_c_1"]


def test_steps_that_mix_texts_are_refused() -> None:
    with pytest.raises(Refused, match="cannot be split into chunks: it combines values of several positions"):
        rewrite(Recurrent(across_texts, WIDTH))


def test_a_model_without_a_path_for_a_single_token_is_refused_for_what_it_lacks() -> None:
    with pytest.raises(Refused, match="its forward takes no `use_cache`"):
        past_of(nn.Embedding(VOCABULARY, WIDTH), CONTEXT)


class Growing(Recurrent):
    """Keeps every token."""

    def forward(
        self, tokens: Tensor, state: list[Tensor] | None = None, use_cache: bool = False
    ) -> dict[str, Tensor | list[Tensor]]:
        kept = torch.cat([*(state or []), tokens], 1)
        return {"logits": self.head(self.embed(tokens)) + kept.sum(), "state": [kept]}


def test_a_state_that_grows_with_the_text_is_refused() -> None:
    with pytest.raises(Refused, match="neither a state per text nor keys and values"):
        step_of(Growing(decaying, WIDTH))


class Contradicting(Recurrent):
    """Says something else token by token than for a whole text."""

    def forward(
        self, tokens: Tensor, state: list[Tensor] | None = None, use_cache: bool = False
    ) -> dict[str, Tensor | list[Tensor]]:
        output = super().forward(tokens, state, use_cache)
        assert isinstance(output["logits"], Tensor)
        return output if state is None else {**output, "logits": output["logits"] * 1.1}


def test_a_model_that_contradicts_itself_is_refused_for_that() -> None:
    module = Contradicting(decaying, WIDTH)
    reference = Reference(module)
    with pytest.raises(Refused, match="contradicts itself: run token by token"):
        check_graph(rewrite(module), weights_of(module), reference, reference.token_by_token)


def test_logits_that_the_model_gives_in_neither_way_fail_the_check() -> None:
    module = Recurrent(decaying, WIDTH)
    program, reference = rewrite(module), Reference(Recurrent(convolving, WIDTH, 2))
    with pytest.raises(CheckFailed):
        check_graph(program, weights_of(module), reference, reference.token_by_token)


class Holding(Recurrent):
    held: Tensor | None = None


class KeepingForItself(nn.Module):
    """Keeps its state as an attribute of a submodule, and passes `use_cache` on among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Holding(decaying, WIDTH)

    def forward(self, tokens: Tensor, past_key_values: None = None, **options: bool) -> Tensor:
        inner = self.inner
        if not options["use_cache"]:
            inner.held = None
        state = torch.zeros(len(tokens), WIDTH) if inner.held is None else inner.held
        rows = []
        for row in inner.embed(tokens).unbind(1):
            y, state = decaying(inner, row, state)
            rows.append(row + y)
        if options["use_cache"]:
            inner.held = state
        logits: Tensor = inner.head(torch.stack(rows, 1))
        return logits


def test_a_state_may_be_kept_in_the_module_itself_which_stays_as_it_was() -> None:
    module = KeepingForItself().eval()
    program = rewrite(module)
    assert [state.shape for state in program.states] == [(1, WIDTH)]
    assert module.inner.held is None
    reference = Reference(module)
    assert check_graph(program, weights_of(module), reference) < 1e-5


def test_a_scan_that_runs_position_by_position_says_so() -> None:
    assert unrolls(rewrite(Recurrent(decaying, WIDTH)))
    assert not unrolls(rewrite(Recurrent(convolving, WIDTH, 2)))


def test_a_step_whose_bias_depends_on_tokens_is_refused_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    native = F.scaled_dot_product_attention

    def masked(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return native(query, key, value, **(options | {"attn_mask": query[:, :1, :, :1]}))

    with monkeypatch.context() as patched:
        patched.setattr(F, "scaled_dot_product_attention", masked)
        program = step_of(tiny_llama())
    with pytest.raises(Refused, match="has a bias that is computed from"):
        run_passes(program, Options(CONTEXT, PATTERNS, lambda *_: None, CPU), PASSES)


def test_a_step_that_looks_back_outside_of_an_attention_is_refused_there() -> None:
    program = step_of(tiny_llama(attn_implementation="eager"))
    others = [pattern for pattern in PATTERNS if not pattern.block.startswith("attention")]
    with pytest.raises(Refused, match="looks back on what was before") as refusal:
        run_passes(program, Options(CONTEXT, others, lambda *_: None, CPU), PASSES)
    assert refusal.value.at == "matmul"
