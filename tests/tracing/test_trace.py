"""Any decoder becomes a program, or is refused where its code cannot be traced."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.errors import InputError, Inseparable, Refused
from autoconvert.tracing.trace import trace
from tests import models
from tests.models import Decoder

OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, logits * 2),
    "list": lambda logits: [logits, None],
    "dict": lambda logits: {"loss": None, "logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits, past=None),
}


class Returning(Decoder):
    def __init__(self, kind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, tokens: Tensor) -> Any:
        return self.kind(super().forward(tokens))


@pytest.mark.parametrize("kind", OUTPUTS)
def test_logits_are_found_in_what_is_returned(kind: str) -> None:
    tokens = models.random_ids()
    module = Returning(OUTPUTS[kind])
    logits = models.execute(models.traced(module), module, tokens)["logits"][0]
    models.assert_same(logits, models.logits_of_source(Decoder(), tokens))


@pytest.mark.parametrize("kind", [lambda logits: 3, lambda logits: {"scores": logits}, lambda logits: (None, logits)])
def test_output_without_logits_is_an_input_error(kind: Callable[[Tensor], Any]) -> None:
    with pytest.raises(InputError, match="no logits are found"):
        models.traced(Returning(kind))


def test_code_that_depends_on_values_is_refused_with_file_and_line() -> None:
    def branching(decoder: Decoder, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    line = branching.__code__.co_firstlineno + 1
    with pytest.raises(Refused, match="cannot be traced with a symbolic length") as refusal:
        models.traced(Decoder(branching))
    assert f"{__file__}:{line}: return x if x.sum() > 0 else -x" in refusal.value.hint


def test_code_for_one_length_is_refused() -> None:
    with pytest.raises(Refused, match="by the length of its text: 8\\*length == 152"):
        models.traced(Decoder(lambda d, x: x * d.rows[: x.shape[1]].view(19, models.WIDTH)))


def test_code_that_decides_by_the_length_is_refused_with_what_it_asks_and_where() -> None:
    def short_otherwise(decoder: Decoder, x: Tensor) -> Tensor:
        return x if x.shape[1] > 3 else x * 2

    line = short_otherwise.__code__.co_firstlineno + 1
    with pytest.raises(Inseparable, match="decides by the length of its text: length > 3, which") as refusal:
        models.traced(Decoder(short_otherwise))
    assert f"{__file__}:{line}." in refusal.value.hint


class Branching(nn.Module):
    """Logits of a table; `assume` is what the code takes for granted about the length."""

    def __init__(self, assume: Callable[[int], bool]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 5))
        self.assume = assume

    def forward(self, tokens: Tensor) -> Tensor:
        logits = F.embedding(tokens, self.table)
        torch._check(self.assume(tokens.shape[1]))  # type: ignore[no-untyped-call]
        return logits


def test_what_holds_at_every_length_is_no_obstacle() -> None:
    trace(Branching(lambda length: min(8, length) * 2 <= 2 * length).eval(), 24)


def test_what_fails_at_one_length_is_refused_with_the_length() -> None:
    with pytest.raises(Inseparable, match="at 9") as refusal:
        trace(Branching(lambda length: length * min(6, length) != 54).eval(), 24)
    assert "--context 8" in refusal.value.hint


def test_parameters_are_inputs_by_name_and_buffers_are_constants() -> None:
    class Buffered(Decoder):
        def __init__(self) -> None:
            super().__init__(lambda _, x: x * self.table)
            self.table: Tensor
            self.register_buffer("table", torch.arange(8.0))

    module = Buffered()
    program = models.traced(module)
    assert program.weights["query_bias"].sources == ("query.bias",)
    assert "table" not in program.weights
    assert any(torch.equal(value, module.table) for value in program.graph.buffers())
    tokens = models.random_ids()
    models.assert_same(models.execute(program, module, tokens)["logits"][0], models.logits_of_source(module, tokens))


def test_inputs_come_before_weights() -> None:
    names = [node.target for node in models.traced(Decoder()).graph.graph.find_nodes(op="placeholder")]
    assert names[:2] == ["tokens", "positions"]


@pytest.mark.parametrize("name", ["position_ids", "positions"])
def test_positions_are_passed_on_where_they_are_taken(name: str) -> None:
    class ById(Decoder):
        def forward(self, tokens: Tensor, position_ids: Tensor) -> Tensor:  # type: ignore[override]
            logits: Tensor = self.head(self.embed(tokens) + position_ids[..., None])
            return logits

    class ByName(Decoder):
        def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:  # type: ignore[override]
            logits: Tensor = self.head(self.embed(tokens) + positions[..., None])
            return logits

    program = models.traced(ById() if name == "position_ids" else ByName())
    positions = program.graph.graph.find_nodes(op="placeholder", target="positions")[0]
    assert positions.users


def test_a_module_that_counts_its_calls_gives_logits_or_is_refused() -> None:
    class Counting(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.calls: Tensor
            self.register_buffer("calls", torch.zeros(1, 19, models.VOCABULARY))

        def forward(self, tokens: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(tokens)

    module, tokens = Counting(), models.random_ids()
    try:
        program = models.traced(module)
    except Refused:
        return
    models.assert_same(models.execute(program, module, tokens)["logits"][0], models.logits_of_source(Decoder(), tokens))


def test_a_buffer_that_a_call_would_make_is_not_made() -> None:
    """A mask that is made for the longest text so far, as many modules do."""

    class Masked(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", None, persistent=False)

        def forward(self, tokens: Tensor) -> Tensor:
            length, mask = tokens.shape[1], self._buffers["mask"]
            if mask is None or mask.shape[0] < length:
                mask = torch.ones(length, length).tril()
                self.register_buffer("mask", mask, persistent=False)
                self.register_buffer("made", torch.ones(1))
            return super().forward(tokens) * mask[:length, :1]

    module, tokens = Masked(), models.random_ids()
    program = models.traced(module)
    assert dict(module.named_buffers()) == {}
    assert not hasattr(module, "made")
    models.assert_same(models.execute(program, module, tokens)["logits"][0], models.logits_of_source(module, tokens))


class Named(Decoder):
    """A parameter of its own by any name."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda d, x: x * getattr(d, name))
        self.register_parameter(name, nn.Parameter(torch.rand(models.WIDTH)))


@pytest.mark.parametrize("name", ["mask", "tokens", "positions", "input_pos", "kv_cache_k_0", "logits"])
def test_a_parameter_may_be_named_as_an_input_is(name: str) -> None:
    module = Named(name)
    models.assert_chunks_give_what_the_model_gives(models.rewrite(module), module)


def test_parameters_whose_names_differ_in_dots_only_stay_apart() -> None:
    class Clashing(Decoder):
        def __init__(self) -> None:
            super().__init__(lambda _, x: x * self.inner.weight + self.inner_weight)
            self.inner = nn.RMSNorm(models.WIDTH)
            self.inner_weight = nn.Parameter(torch.rand(models.WIDTH))

    module = Clashing()
    program = models.rewrite(module)
    assert {"inner.weight", "inner_weight"} <= {weight.sources[0] for weight in program.weights.values()}
    models.assert_chunks_give_what_the_model_gives(program, module)


def test_the_message_is_one_line() -> None:
    with pytest.raises(Refused) as refusal:
        models.traced(Decoder(lambda d, x: x if x.max() > 1 else x * 2))
    assert re.fullmatch(r"[^\n]+", refusal.value.message)
