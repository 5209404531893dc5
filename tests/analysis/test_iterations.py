"""Iterations that share nothing but a sum are told from those that hand on, and from those that are counted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from autoconvert import ops
from autoconvert.analysis.iterations import Iteration, check_isolated, check_same, iterations
from autoconvert.errors import Inseparable
from autoconvert.tracing.functional import functional
from autoconvert.tracing.loops import Places

ROWS, WIDTH = 3, 4

Body = Callable[[Tensor], Tensor]


class Function(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def trace(body: Body, most: dict[int, int] | None = None) -> ExportedProgram:
    """Of x [3, 4], with a mark at each iteration; with `most` 0 for a size, of none over vectors of it."""
    with torch.no_grad(), Places(most or {}):
        exported = torch.export.export(Function(body), (torch.ones(ROWS, WIDTH),), strict=False)
    return functional(exported)


def rows_of(x: Tensor) -> Tensor:
    """Which rows matter, [3]."""
    return x.sum(-1) > 0


def added(x: Tensor, total: Tensor | None = None) -> Tensor:
    """The rows that matter, doubled."""
    total = torch.zeros_like(x) if total is None else total
    for place in rows_of(x).nonzero():
        total = total.index_add(0, place, x[place] * 2)
    return total


def test_every_node_is_of_the_iteration_that_its_mark_began() -> None:
    graph = trace(added).graph
    found = iterations(graph)
    (hit,) = {iteration.hit for iteration in found.values()}
    assert list(dict.fromkeys(found.values())) == [Iteration(0, hit, number) for number in range(ROWS)]
    for number in range(ROWS):
        made = [node.target for node, iteration in found.items() if iteration.number == number]
        assert made.count(torch.ops.aten.index_add.default) == 1
        assert made.count(ops.visit) == 1


def test_what_is_before_and_after_a_loop_is_of_no_iteration() -> None:
    graph = trace(lambda x: torch.tanh(added(torch.sigmoid(x)))).graph
    found = iterations(graph)
    outside = [node for node in graph.nodes if node not in found]
    targets = [node.target for node in outside]
    assert torch.ops.aten.tanh.default in targets
    assert torch.ops.aten.sigmoid.default in targets
    # The mark that ends a loop.
    assert targets.count(ops.visit) == 1


def test_loops_have_numbers_of_their_own() -> None:
    found = iterations(trace(lambda x: added(x, added(x) * 0.5)).graph)
    assert {(iteration.loop, iteration.number) for iteration in found.values()} == {
        (loop, number) for loop in range(2) for number in range(ROWS)
    }


def used_within(x: Tensor) -> Tensor:
    """What an iteration makes may be used in it as often as it likes."""
    total = torch.zeros_like(x)
    for place in rows_of(x).nonzero():
        row = torch.tanh(x[place])
        total = total.index_add(0, place, row * row + row)
    return total


def two_sums(x: Tensor) -> Tensor:
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for place in rows_of(x).nonzero():
        first = first.index_add(0, place, x[place])
        second = second.index_add(0, place, x[place] * 2)
    return first * second


def twice_to_one_sum(x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for place in rows_of(x).nonzero():
        total = total.index_add(0, place, x[place])
        total = total.index_add(0, place, x[place] * 2)
    return total


ISOLATED: dict[str, Body] = {
    "one sum": added,
    "a value used within": used_within,
    "two sums": two_sums,
    "two additions": twice_to_one_sum,
    "two loops on one sum": lambda x: added(x, added(x)),
    "a loop over what another gave": lambda x: added(added(x)),
    "no loop": torch.tanh,
}


@pytest.mark.parametrize("name", ISOLATED)
def test_iterations_may_share_sums(name: str) -> None:
    check_isolated(trace(ISOLATED[name]).graph)


def handed_on(x: Tensor) -> Tensor:
    total, scale = torch.zeros_like(x), torch.ones(1)
    for place in rows_of(x).nonzero():
        total = total.index_add(0, place, x[place] * scale)
        scale = scale * 2
    return total


def used_after(x: Tensor) -> Tensor:
    total, row = torch.zeros_like(x), x[:1]
    for place in rows_of(x).nonzero():
        row = x[place] * 2
        total = total.index_add(0, place, row)
    return total + row


def reads_the_sum(x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for place in rows_of(x).nonzero():
        total = total.index_add(0, place, x[place] + total[place])
    return total


def keeps_a_sum_on_its_way(x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    seen = total
    for place in rows_of(x).nonzero():
        seen = total
        total = total.index_add(0, place, x[place])
    return total + seen


def adds_the_sum_to_itself(x: Tensor) -> Tensor:
    total = x
    for _ in rows_of(x).nonzero():
        total = total.index_add(0, torch.arange(ROWS), total)
    return total


def product(x: Tensor) -> Tensor:
    total = torch.ones_like(x)
    for place in rows_of(x).nonzero():
        total = total * (1 + x[place])
    return total


HANDING_ON: dict[str, Body] = {
    "a value to the next": handed_on,
    "a value to what follows": used_after,
    "the sum is read": reads_the_sum,
    "the sum on its way is kept": keeps_a_sum_on_its_way,
    "the sum is added to itself": adds_the_sum_to_itself,
    "a product": product,
}


@pytest.mark.parametrize("name", HANDING_ON)
def test_iterations_that_hand_on_a_value_are_refused(name: str) -> None:
    with pytest.raises(Inseparable, match="is made in a loop whose iterations depend on the values of tokens"):
        check_isolated(trace(HANDING_ON[name]).graph)


def test_the_refusal_says_where_the_value_is_made() -> None:
    with pytest.raises(Inseparable, match=r"^mul \(.*test_iterations.py:\d+: .*\) is made") as refusal:
        check_isolated(trace(handed_on).graph)
    assert refusal.value.hint == "Only sums to which every iteration adds are covered."


def compared(body: Body, *, sums: bool = True) -> None:
    check_same(trace(body).run_decompositions({}), trace(body, {ROWS: 0}).run_decompositions({}), sums=sums)


def counting(x: Tensor) -> Tensor:
    total, count = torch.zeros_like(x), 0
    for place in rows_of(x).nonzero():
        total = total.index_add(0, place, x[place])
        count += 1
    return total * count


def chosen_by_count(x: Tensor) -> Tensor:
    total, any_at_all = torch.zeros_like(x), False
    for place in rows_of(x).nonzero():
        total, any_at_all = total.index_add(0, place, x[place]), True
    return torch.tanh(total) if any_at_all else total


def with_a_constant(x: Tensor) -> Tensor:
    total, count = torch.zeros_like(x), 0
    for place in rows_of(x).nonzero():
        total = total.index_add(0, place, x[place])
        count += 1
    return total * torch.tensor(float(count))


@pytest.mark.parametrize("name", ISOLATED)
def test_but_for_sums_no_iteration_is_the_same_as_all(name: str) -> None:
    if name == "no loop":
        return
    compared(ISOLATED[name])


@pytest.mark.parametrize("body", [counting, chosen_by_count, with_a_constant])
def test_code_that_knows_how_many_iterations_there_were_is_refused(body: Body) -> None:
    check_isolated(trace(body).graph)
    with pytest.raises(Inseparable, match="the model's code knows how often a loop runs"):
        compared(body)


def test_without_sums_nothing_may_have_been_added() -> None:
    def idle(x: Tensor) -> Tensor:
        for place in rows_of(x).nonzero():
            torch.tanh(x[place])
        return x * 2

    compared(idle, sums=False)
    with pytest.raises(Inseparable, match="knows how often a loop runs"):
        compared(added, sums=False)


def nodes(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes]


def test_a_trace_of_no_iteration_has_none() -> None:
    assert not iterations(trace(added, {ROWS: 0}).graph)
    assert not any("index_add" in target for target in nodes(trace(added, {ROWS: 0}).graph))
