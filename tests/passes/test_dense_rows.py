"""Rows that tokens choose are computed densely and put back where they were, or it is said why they cannot be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.program import Program
from tests import models
from tests.passes.test_loops_to_pairs import CHOSEN, EXPERTS, Mixture, mixture
from tests.steps import run_through

Change = Callable[[Mixture, Tensor], Tensor]

aten = torch.ops.aten


def best(m: Mixture, x: Tensor) -> Tensor:
    return m.router(x).argmax(-1)


def masked(change: Callable[[Mixture, Tensor], Tensor], whole: bool = False) -> Change:
    """`change` on the rows whose best class is 0, or on those of each class, written back."""

    def experts(m: Mixture, x: Tensor) -> Tensor:
        numbers, y = best(m, x), x.clone()
        for number in range(EXPERTS) if whole else [0]:
            y[numbers == number] = change(m, x[numbers == number])
        return y

    return experts


def of_each_class(m: Mixture, x: Tensor) -> Tensor:
    numbers, y = best(m, x), torch.zeros_like(x)
    for number, layer in enumerate(m.layers):
        y[numbers == number] = layer(x[numbers == number])
    return y


def of_some_classes(m: Mixture, x: Tensor) -> Tensor:
    numbers, y = best(m, x), x.clone()
    for number in (1, 2):
        y[numbers == number] = m.layers[number](x[numbers == number])
    return y


def scattered(m: Mixture, x: Tensor) -> Tensor:
    numbers, y = best(m, x), torch.zeros_like(x)
    for number, layer in enumerate(m.layers):
        mask = numbers == number
        y = y.masked_scatter(mask[:, None], layer(x[mask]))
    return y


def copied_at_places(m: Mixture, x: Tensor) -> Tensor:
    numbers, y = best(m, x), torch.zeros_like(x)
    for number, layer in enumerate(m.layers):
        rows = (numbers == number).nonzero().squeeze(-1)
        y.index_copy_(0, rows, layer(x.index_select(0, rows)))
    return y


def written_sums(m: Mixture, x: Tensor) -> Tensor:
    weights, numbers = m.route(x)
    y = torch.zeros_like(x)
    for number, layer in enumerate(m.layers):
        token, slot = torch.where(numbers == number)
        y[token] += weights[token, slot, None] * layer(x[token])
    return y


def accumulated(m: Mixture, x: Tensor) -> Tensor:
    weights, _ = m.route(x)
    token, slot = torch.where(weights > 0.3)
    return torch.zeros_like(x).index_put((token,), weights[token, slot, None] * x[token], accumulate=True)


def of_a_text(m: Mixture, x: Tensor) -> Tensor:
    batch = x[None].clone()
    mask = m.router(batch)[..., 0] > 0
    batch[mask] = m.layers[0](batch[mask])
    return batch[0]


def one_value(m: Mixture, x: Tensor) -> Tensor:
    y = x.clone()
    y[best(m, x) == 1] = 0
    y[best(m, x) == 2] = m.offset
    return y


def of_a_constant(m: Mixture, x: Tensor) -> Tensor:
    language, batch, y = torch.ones(1), x[None], torch.zeros_like(x[None])
    for number in range(EXPERTS):
        y[language == number] = m.layers[number](batch[language == number])
    return y[0]


@pytest.mark.parametrize(
    "change",
    [
        masked(lambda m, r: F.layer_norm(r.view(-1, 2, 4), (4,)).flatten(1)),
        masked(lambda m, r: r.softmax(-1) + r.chunk(2, -1)[0].repeat(1, 2)),
        masked(lambda m, r: r + r.new_zeros(r.shape[0], 1)),
        of_each_class,
        of_some_classes,
        scattered,
        copied_at_places,
        written_sums,
        accumulated,
        of_a_text,
        one_value,
        of_a_constant,
    ],
)
def test_rows_of_a_mask_are_computed_densely(change: Change) -> None:
    dense(change)


def dense(change: Change) -> Program:
    """The program without rows that are chosen, checked to give the numbers of the model."""
    module = mixture(change)
    program = run_through(models.traced(module), "canonicalize-2")
    tokens = models.random_ids()
    models.assert_same(models.execute(program, module, tokens)["logits"][0], models.logits_of_source(module, tokens))
    return program


class Sorted:
    """All pairs of token and slot, sorted by their class: their order, tokens and weights, and how many each has."""

    def __init__(self, m: Mixture, x: Tensor) -> None:
        self.weights, self.numbers = m.route(x)
        self.flat = self.numbers.flatten()
        self.order = self.flat.sort(0)[1]
        self.token = self.order // CHOSEN
        self.sizes = F.one_hot(self.numbers, EXPERTS).sum((0, 1)).tolist()
        self.gates = self.weights.flatten()[self.order, None]

    def add(self, x: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros_like(x).index_add(0, self.token, rows)


def experts(m: Mixture, rows: Tensor, sizes: list[Any]) -> Tensor:
    pieces = torch.split(rows, sizes)
    return torch.cat([m.expert(piece, number) for number, piece in enumerate(pieces)])


def added(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return by.add(x, experts(m, x[by.token], by.sizes) * by.gates)


def split_twice(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    inner = torch.cat([F.linear(p, m.up[e]) for e, p in enumerate(torch.split(x[by.token], by.sizes))])
    outer = torch.cat([F.linear(p, m.down[e]) for e, p in enumerate(torch.split(F.silu(inner), by.sizes))])
    return by.add(x, outer * by.gates)


def put_in_order(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    rows = experts(m, x[by.token], by.sizes)[by.order.argsort()]
    return (rows.view(-1, CHOSEN, x.shape[1]) * by.weights[..., None]).sum(1)


def written_in_order(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    rows = experts(m, x[by.token], by.sizes)
    y = torch.empty_like(rows)
    y[by.order] = rows
    return (y.view(-1, CHOSEN, x.shape[1]) * by.weights[..., None]).sum(1)


def counted_by_scatter(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    sizes = torch.zeros(x.shape[0], EXPERTS).scatter(1, by.numbers, 1).long().sum(0).tolist()
    return by.add(x, experts(m, x[by.token], sizes))


def counted_by_sums(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    sizes = torch.zeros(EXPERTS, dtype=torch.long).scatter_add(0, by.flat, torch.ones_like(by.flat)).tolist()
    return by.add(x, experts(m, x[by.token], sizes))


def counted_one_by_one(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return by.add(x, experts(m, x[by.token], [(by.flat == e).sum().item() for e in range(EXPERTS)]))


def of_pieces_of_places(m: Mixture, x: Tensor) -> Tensor:
    by, y = Sorted(m, x), torch.zeros_like(x)
    for number, piece in enumerate(torch.split(by.order, by.sizes)):
        token = piece // CHOSEN
        y.index_add_(0, token, m.layers[number](x[token]) * by.weights.flatten()[piece, None])
    return y


def of_other_functions(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    pieces = torch.split(x[by.token], by.sizes)
    return by.add(x, torch.cat([m.expert(p, e) if e % 2 else p.tanh() for e, p in enumerate(pieces)]))


ALIKE = (
    added,
    split_twice,
    put_in_order,
    written_in_order,
    counted_by_scatter,
    counted_by_sums,
    counted_one_by_one,
)


@pytest.mark.parametrize("change", [*ALIKE, of_pieces_of_places, of_other_functions])
def test_sorted_rows_stay_where_they_are(change: Change) -> None:
    program = dense(change)
    targets = {node.target for node in program.graph.graph.nodes}
    assert targets.isdisjoint({aten.sort.default, aten.argsort.default, aten.split_with_sizes.default})
    # What is alike for all classes is computed once.
    assert change not in ALIKE or aten.where.self not in targets


@pytest.mark.parametrize("change", [of_each_class, scattered, copied_at_places, written_sums, added])
def test_a_step_reads_the_weights_of_chosen_classes_alone(change: Change) -> None:
    module = mixture(change)
    program = models.rewrite(module)
    assert len(program.graph.graph.find_nodes(op="call_function", target=ops.expert_linear)) == 2
    models.assert_chunks_give_what_the_model_gives(program, module)


def put_elsewhere(m: Mixture, x: Tensor) -> Tensor:
    token = (best(m, x) == 0).nonzero(as_tuple=True)[0]
    return x.index_copy(0, (token + 1) % x.shape[0], x[token])


def put_under_another_mask(m: Mixture, x: Tensor) -> Tensor:
    numbers = best(m, x)
    return x.masked_scatter((numbers == 1)[:, None], x[numbers == 0])


def written_twice(m: Mixture, x: Tensor) -> Tensor:
    weights, _ = m.route(x)
    token, slot = torch.where(weights > 0.3)
    return x.index_put((token,), weights[token, slot, None] * x[token])


def added_to_what_is_written_twice(m: Mixture, x: Tensor) -> Tensor:
    weights, _ = m.route(x)
    token, slot = torch.where(weights > 0.3)
    y = x.clone()
    y[token] += weights[token, slot, None] * x[token]
    return y


def other_rows(m: Mixture, x: Tensor) -> Tensor:
    numbers = best(m, x)
    return x * x[numbers == 0].sum()


def in_another_order(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    pieces = torch.split(x[by.token], by.sizes)
    return by.add(x, torch.cat([pieces[e] * float(e) for e in (1, 0, 2, 3)]))


def one_piece_twice(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    pieces = torch.split(x[by.token], by.sizes)
    return by.add(x, torch.cat([pieces[e] * float(e) for e in (0, 1, 2, 2)])[: by.order.shape[0]])


def counts_of_other_numbers(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    sizes = F.one_hot((-m.router(x)).topk(CHOSEN, -1)[1], EXPERTS).sum((0, 1)).tolist()
    return by.add(x, experts(m, x[by.token], sizes))


def counts_of_other_classes(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return by.add(x, experts(m, x[by.token], [by.sizes[e] for e in (1, 2, 3, 0)]))


def counts_of_tokens(m: Mixture, x: Tensor) -> Tensor:
    """A class that a token has twice counts once."""
    by = Sorted(m, x)
    numbers = (by.numbers - 1).clamp(min=0)
    sizes = torch.zeros(x.shape[0], EXPERTS).scatter(1, numbers, 1).long().sum(0).tolist()
    return by.add(x, experts(m, x[numbers.flatten().sort(0)[1] // CHOSEN], sizes))


def sorted_downwards(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    token = by.flat.sort(0, descending=True)[1] // CHOSEN
    return x.new_zeros(x.shape).index_add(0, token, experts(m, x[token], by.sizes))


def put_in_another_order(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return torch.zeros_like(x).index_add(0, (3 - by.flat).sort(0)[1] // CHOSEN, x[by.token])


def weights_in_their_own_order(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return by.add(x, x[by.token] * by.weights.flatten()[:, None])


def places_of_other_tokens(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return torch.zeros_like(x).index_add(0, by.order // (2 * CHOSEN), x[by.token])


def neighbours(m: Mixture, x: Tensor) -> Tensor:
    by = Sorted(m, x)
    return by.add(x, x[by.token] + x[by.token].roll(1, 0))


REFUSED: dict[str, tuple[Change, str]] = {
    "a mean over them": (masked(lambda m, r: r - r.mean(0)), "mean"),
    "a softmax over them": (masked(lambda m, r: r.softmax(0)), "softmax"),
    "a sum along them": (masked(lambda m, r: r.cumsum(0)), "cumsum"),
    "another order of them": (masked(lambda m, r: r.flip(0)), "flip"),
    "how many they are": (masked(lambda m, r: r * r.shape[0]), "mul"),
    "parts of several": (masked(lambda m, r: r.view(2, -1, 4).transpose(0, 1).reshape(-1, 8)), "choose meet: reshape"),
    "other places": (put_elsewhere, "places are computed with"),
    "another mask": (put_under_another_mask, "another mask is true"),
    "one place twice": (written_twice, "several of them may be written to one place"),
    "one place read once": (added_to_what_is_written_twice, "several of them may be written to one place"),
    "used otherwise": (other_rows, "sum"),
    "pieces in another order": (in_another_order, "not put together in their order"),
    "a piece twice": (one_piece_twice, "depends on the values of its tokens"),
    "counts of other numbers": (counts_of_other_numbers, "how often each class occurs"),
    "counts of other classes": (counts_of_other_classes, "how often each class occurs"),
    "counts of tokens": (counts_of_tokens, "how often each class occurs"),
    "sorted downwards": (sorted_downwards, "not put back"),
    "put in another order": (put_in_another_order, "sort"),
    "other weights": (weights_in_their_own_order, "sort"),
    "other tokens": (places_of_other_tokens, "sort"),
    "neighbours": (neighbours, "roll"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_meet_or_go_elsewhere_are_refused(name: str) -> None:
    change, why = REFUSED[name]
    with pytest.raises(Refused, match=why):
        models.rewrite(mixture(change))
