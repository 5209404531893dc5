"""A jump of numbers computed from tokens falls on a device where it falls in PyTorch, or is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoconvert.errors import Refused
from autoconvert.ir.interface import Role
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import operation_name
from tests.models import LENGTH, VOCABULARY, assert_chunks_give_what_the_model_gives, rewrite
from tests.passes.test_bound_integers import Hashed
from tests.steps import Stepping

Numbers = Callable[[Tensor], Tensor]
LARGE = 1000


def operations(program: Program) -> set[str]:
    return {operation_name(node) for node in program.graph.graph.nodes}


# What rounds decides no jump any more: its operation is not in the graph.
BY_TABLE: dict[str, tuple[Numbers, str]] = {
    "rounded down": (lambda x: (x.float() * 0.1).floor().long() % 7, "floor"),
    "a quotient rounded down": (lambda x: (x.float() / 41).floor().long() % 7, "floor"),
    "to the next": (lambda x: (x.float() / 3 + 0.5).round().long() % 7, "round"),
    "cast": (lambda x: (x.float() * 0.7).long() % 7, "mul"),
    "compared": (lambda x: (x.float() / 49 * 49 == x).long(), "mul"),
    "larger": (lambda x: (x.float() * 0.1 > 0.7).long(), "gt"),
    "sign": (lambda x: (x.float() * 0.1 - 0.7).sign().long() + 1, "sign"),
    "remainder": (lambda x: ((x.float() * 0.1) % 0.7 * 10).long(), "remainder"),
    "remainder toward zero": (lambda x: torch.fmod(x.float(), 41).long() % 7, "fmod"),
    "quotient toward zero": (lambda x: torch.div(x.float(), 41, rounding_mode="trunc").long() % 7, "div"),
    "half": (lambda x: (x.half() / 3).floor().long() % 7, "floor"),
    "waves": (lambda x: (x.float().sin() * 3).abs().round().long(), "sin"),
    "float64": (lambda x: (x.double() * 40000003 % 7).long(), "mul"),
}
BY_QUOTIENT: dict[str, Numbers] = {
    "cast": lambda x: (x.cumsum(1).float() / 41).long() % 7,
    "of a sum": lambda x: (x.cumsum(1).float() / 41).floor().long() % 7,
    "of a sum of floats": lambda x: (x.float().cumsum(1) / 41).floor().long() % 7,
}
AS_IT_IS: dict[str, Numbers] = {
    "halves": lambda x: (x.float().cumsum(1) * 0.5).floor().long() % 7,
    "quarters": lambda x: ((x.cumsum(1).float() / 4 + 0.25) > 3.5).long(),
    "truths": lambda x: ((x > 3).float().cumsum(1) >= 2).long(),
    "apart": lambda x: (x.cumsum(1) / 41.0 > -1).long(),
    "floats": lambda x: x.float().cumsum(1).remainder(7).long(),
}
REFUSED: dict[str, tuple[Numbers, int, str]] = {
    "a sum": (lambda x: (x.cumsum(1).float() * 0.1).floor().long() % 7, VOCABULARY, "floor"),
    "rounded addends": (lambda x: (x.float() * 0.1).cumsum(1).long() % 7, VOCABULARY, "_to_copy"),
    "a comparison of sums": (lambda x: (x.cumsum(1) / 3.0 == x).long(), VOCABULARY, "eq"),
    "a large sum": (lambda x: (x.float().cumsum(1) % 7).long(), 2**20, "remainder|running_sum"),
    "places of what is as large": (
        lambda x: (torch.stack([x.cumsum(1) / 3.0, x / 7.0], -1)).argmax(-1),
        VOCABULARY,
        "argmax",
    ),
}


@pytest.mark.parametrize("name", BY_TABLE)
def test_what_each_token_decides_is_looked_up(name: str) -> None:
    numbers, rounding = BY_TABLE[name]
    model = Hashed(numbers, LARGE)
    program = rewrite(model)
    assert rounding not in {operation.partition(".")[0] for operation in operations(program)}
    assert_chunks_give_what_the_model_gives(program, model, LARGE)


@pytest.mark.parametrize("name", BY_QUOTIENT)
def test_a_quotient_of_whole_numbers_is_divided_as_such(name: str) -> None:
    model = Hashed(BY_QUOTIENT[name], LARGE)
    program = rewrite(model)
    assert "floor_divide" in operations(program)
    assert_chunks_give_what_the_model_gives(program, model, LARGE)


@pytest.mark.parametrize("name", AS_IT_IS)
def test_what_needs_no_rounding_stays(name: str) -> None:
    model = Hashed(AS_IT_IS[name])
    program = rewrite(model)
    assert "floor_divide" not in operations(program)
    assert_chunks_give_what_the_model_gives(program, model)


@pytest.mark.parametrize("name", REFUSED)
def test_a_jump_without_an_exact_form_is_refused_with_its_place(name: str) -> None:
    numbers, vocabulary, operation = REFUSED[name]
    with pytest.raises(Refused, match=rf"({operation}).*test_bound_integers.*device"):
        rewrite(Hashed(numbers, vocabulary))


def test_a_jump_of_learned_numbers_is_no_matter() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Hashed(lambda x: x % 7)

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.inner(tokens)
            return logits * (logits > 0.1).float() + (logits * 10).round()

    rewrite(Gated())


class Placed(nn.Module):
    """A decoder whose embeddings are joined by rows that steps of the position choose."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Hashed(lambda x: (torch.arange(x.shape[1]).float() / 49 * 49).floor().long()[None] % 7)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(tokens)
        return logits


def test_a_jump_of_positions_is_evaluated_with_the_models_own_rounding() -> None:
    program = rewrite(Placed(), 64)
    tables = [value for name, value in program.graph.named_buffers() if name.startswith("table_")]
    expected = (torch.arange(64).float() / 49 * 49).floor().long() % 7
    assert LENGTH < 64
    assert program.find_input(Role.INPUT_POS) is not None
    assert any(torch.equal(table.flatten().long(), expected) for table in tables)


class Divided(nn.Module):
    """A decoder whose `numbers(tokens, divisor)` are computed with a buffer of 41."""

    def __init__(self, numbers: Callable[[Tensor, Tensor], Tensor], persistent: bool) -> None:
        super().__init__()
        self.inner = Hashed(lambda x: numbers(x, self.get_buffer("divisor")), LARGE)
        self.register_buffer("divisor", torch.tensor(41.0), persistent=persistent)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(tokens)
        return logits


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    "numbers", [lambda x, by: (x.float() / by).floor().long() % 7, lambda x, by: (x.cumsum(1) / by).floor().long() % 7]
)
def test_a_divisor_in_a_buffer_is_a_number_of_the_model(
    numbers: Callable[[Tensor, Tensor], Tensor], persistent: bool
) -> None:
    model = Divided(numbers, persistent)
    assert_chunks_give_what_the_model_gives(rewrite(model), model, LARGE)


def counting(each: Callable[[Tensor], Tensor]) -> Stepping:
    """A row is added where a count in float32, kept from token to token, is large within a period."""

    def step(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        count = kept[0] + each(token)
        return model.embed(token)[:, 0] + ((count % 7.0) > 3).float() * model.gain, [count]

    return Stepping(step, (1,))


def test_what_a_scan_counts_is_exact() -> None:
    model = counting(lambda token: (token % 3 == 1).float())
    assert_chunks_give_what_the_model_gives(rewrite(model), model)


def test_what_a_scan_sums_of_fractions_decides_nothing() -> None:
    with pytest.raises(Refused, match=r"remainder.*jumps where its operand.*is rounded"):
        rewrite(counting(lambda token: (token % 3 == 1).float() * 0.1))
