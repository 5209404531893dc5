"""Rows of all classes at once are the rows of each, or it is said why they cannot be."""

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from autoconvert.errors import Inseparable
from autoconvert.ir.program import Program
from tests import models
from tests.models import WIDTH
from tests.passes.test_loops_to_pairs import CHOSEN, EXPERTS, Mixture, mixture
from tests.steps import run_through

aten = torch.ops.aten

# What is added for a class: of the model, x [tokens, width], the class, the slots and tokens of its rows, the weights.
Rows = Callable[[Mixture, Tensor, int, Tensor, Tensor, Tensor], Tensor]


def loop(rows: Rows, numbers: Iterable[int] = range(EXPERTS)) -> Callable[[Mixture, Tensor], Tensor]:
    """Adds the rows of each class of `numbers` at the tokens that they are of."""

    def experts(m: Mixture, x: Tensor) -> Tensor:
        weights, chosen = m.route(x)
        mask, total = F.one_hot(chosen, EXPERTS).permute(2, 1, 0), torch.zeros_like(x)
        for number in numbers:
            slot, token = torch.where(mask[number])
            total = total.index_add(0, token, rows(m, x, number, slot, token, weights))
        return total

    return experts


def paired(experts: Callable[[Mixture, Tensor], Tensor]) -> Program:
    """The program in which all pairs are computed at once, checked to give the numbers of the loop."""
    module = mixture(experts)
    program = run_through(models.traced(module), "canonicalize-2")
    tokens = models.random_ids()
    logits = models.execute(program, module, tokens)["logits"]
    models.assert_same(logits[0], models.logits_of_source(module, tokens))
    assert not called(program, aten.index_add.default)
    return program


def called(program: Program, target: object) -> list[fx.Node]:
    return [node for node in program.graph.graph.nodes if node.target == target]


def runs(program: Program) -> int:
    """How many times all pairs are computed: each run of classes is summed over the slots once."""
    over_slots = [node for node in called(program, aten.sum.dim_IntList) if len(node.meta["val"].shape) == 2]
    return len(over_slots)


def expert(m: Mixture, x: Tensor, number: int, slot: Tensor, token: Tensor, weights: Tensor) -> Tensor:
    return m.expert(x[token], number)


@pytest.fixture(scope="module")
def whole() -> Program:
    return paired(loop(expert))


@pytest.fixture(scope="module")
def part() -> Program:
    """Of the classes 1 and 2 alone."""
    return paired(loop(expert, [1, 2]))


ROWS: dict[str, Rows] = {
    "two products": expert,
    "weighted by the pair": lambda m, x, e, s, t, w: m.expert(x[t], e) * w[t, s, None],
    "modules": lambda m, x, e, s, t, w: m.layers[e](x[t]),
    "products written as such": lambda m, x, e, s, t, w: x[t] @ m.up[e].mT @ m.down[e].mT,
    "a product from the left": lambda m, x, e, s, t, w: (m.down[e] @ (m.up[e] @ x[t].mT)).mT,
    "a part of a parameter from the left": lambda m, x, e, s, t, w: (m.up[e, :WIDTH] @ x[t].mT).mT,
    "one bias for all": lambda m, x, e, s, t, w: F.linear(F.linear(x[t], m.up[e], m.bias[0]), m.down[e]),
    "one matrix for all": lambda m, x, e, s, t, w: F.linear(x[t], m.square) * w[t, s, None],
    "a vector beside": lambda m, x, e, s, t, w: F.linear(F.linear(x[t], m.up[e]) * m.bias[e], m.down[e]),
    "a computed vector": lambda m, x, e, s, t, w: F.linear(F.linear(x[t], m.up[e]) * torch.tanh(m.bias[e]), m.down[e]),
    "no parameters": lambda m, x, e, s, t, w: torch.tanh(x[t]) * w[t, s, None],
    "what all tokens say": lambda m, x, e, s, t, w: m.expert(x[t], e) * m.gain,
    "several picks": lambda m, x, e, s, t, w: m.expert(x[t], e) + x.mean(-1)[t, None],
    "transposed between": lambda m, x, e, s, t, w: torch.tanh(m.expert(x[t], e).mT).mT,
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_all_classes_are_computed_at_once(name: str) -> None:
    assert runs(paired(loop(ROWS[name]))) == 1


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([2, 0, 3, 1], 1), ([1, 2], 1), ([3], 1), ([0, 2, 3], 2), ([0, 1, 1, 2, 3], 2)],
    ids=["in any order", "some", "one", "with a gap", "one twice"],
)
def test_consecutive_classes_are_one_run(numbers: list[int], expected: int) -> None:
    """Rows of the classes that are not among them count as 0."""
    assert runs(paired(loop(expert, numbers))) == expected


def test_classes_that_compute_otherwise_are_another_run() -> None:
    def of_two_kinds(m: Mixture, x: Tensor, e: int, s: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return m.expert(x[t], e) if e < 2 else torch.tanh(x[t]) * w[t, s, None]

    assert runs(paired(loop(of_two_kinds))) == 2


def test_numbers_are_no_parameters() -> None:
    """Classes that differ in a number of the code are not computed alike."""
    assert runs(paired(loop(lambda m, x, e, s, t, w: x[t] * float(e + 2)))) == EXPERTS


def test_parameters_of_other_sizes_are_another_run() -> None:
    def narrower(m: Mixture, x: Tensor, e: int, s: Tensor, t: Tensor, w: Tensor) -> Tensor:
        width = 12 if e < 2 else 6
        return F.linear(F.linear(x[t], m.up[e, :width]), m.down[e, :, :width])

    assert runs(paired(loop(narrower))) == 2


def test_entries_of_one_parameter_are_that_parameter(whole: Program) -> None:
    """Nothing is copied to have them together."""
    assert not called(whole, aten.cat.default)
    assert not called(whole, aten.slice.Tensor)


def test_some_entries_of_one_parameter_are_a_part_of_it(part: Program) -> None:
    assert not called(part, aten.cat.default)
    assert {tuple(node.args[1:]) for node in called(part, aten.slice.Tensor)} == {(-3, 1, 3), (-2, 1, 3)}


def test_parameters_of_modules_are_put_together() -> None:
    program = paired(loop(lambda m, x, e, s, t, w: m.layers[e](x[t])))
    assert {tuple(node.meta["val"].shape) for node in called(program, aten.cat.default)} == {
        (EXPERTS, 12, WIDTH),
        (EXPERTS, 12),
        (EXPERTS, WIDTH, 12),
        (EXPERTS, WIDTH),
    }


def test_rows_that_no_number_leaves_out_are_not_masked(whole: Program, part: Program) -> None:
    assert not called(whole, aten.where.self)
    assert called(part, aten.where.self)


def test_every_pair_has_a_row(whole: Program) -> None:
    """Beside its token the slot in which a class was chosen, [tokens · chosen, …]."""
    (silu,) = called(whole, aten.silu.default)
    rows, inner = silu.meta["val"].shape
    (tokens,) = whole.graph.graph.find_nodes(op="placeholder", target="tokens")
    length = tokens.meta["val"].shape[1]
    assert inner == 12
    assert str(rows.node.expr) == str((length * CHOSEN).node.expr)


REASONS: dict[str, tuple[Rows, str]] = {
    "rows meet": (
        lambda m, x, e, s, t, w: m.expert(x[t], e).softmax(0),
        "softmax.int cannot be split into chunks: it combines values of several positions",
    ),
    "rows are counted": (lambda m, x, e, s, t, w: m.expert(x[t], e) / t.shape[0], "cannot be split into chunks"),
    "places are numbers": (lambda m, x, e, s, t, w: m.expert(x[t], e) * t[:, None], "places are computed with"),
    "other places": (
        lambda m, x, e, s, t, w: m.expert(x[(t - 1).clamp(min=0)], e),
        "places are computed with|it picks by what is computed from places",
    ),
    "another length": (lambda m, x, e, s, t, w: m.expert(m.rows[t], e), "it picks from an axis of another length"),
    "by slots alone": (
        lambda m, x, e, s, t, w: m.expert(x[t], e) * m.rows[:CHOSEN, 0][s, None],
        "a value without positions is picked for each of them",
    ),
    "axes apart": (
        lambda m, x, e, s, t, w: m.expert(x[t], e) * w[:, None].expand(-1, 3, -1)[t, :, s].sum(-1, keepdim=True),
        "it picks along axes that are not side by side",
    ),
    "positions of each": (
        lambda m, x, e, s, t, w: m.expert(x[t], e) * (x @ x.mT)[t].sum(-1, keepdim=True),
        "a second axis has an unknown size",
    ),
    "matrices of a row": (
        lambda m, x, e, s, t, w: F.linear(x[t][:, None].expand(-1, 3, -1), m.up[e, :WIDTH]).sum(1),
        "a parameter is multiplied with more than vectors",
    ),
    "a matrix beside": (
        lambda m, x, e, s, t, w: (x[t][:, None] * m.up[e]).sum(1),
        "a parameter that is no vector is beside rows",
    ),
    "a number beside": (
        lambda m, x, e, s, t, w: m.expert(x[t], e) * m.bias[e, 0],
        "a parameter that is no vector is beside rows",
    ),
    "parameters as entries": (
        lambda m, x, e, s, t, w: torch.cat([x[t][:, :4], m.bias[e, :4].expand(t.shape[0], -1)], -1),
        "parameters are used in an unknown way",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_computation_of_single_rows_is_refused_with_the_reason(name: str) -> None:
    rows, reason = REASONS[name]
    with pytest.raises(Inseparable, match=f"a loop whose rows are not computed alone: .*({reason})") as refusal:
        paired(loop(rows))
    assert refusal.value.message.endswith(".")
    assert not refusal.value.message.endswith("..")
