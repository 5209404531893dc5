"""What lies between a state and the next one, and how little of it leaves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from autoconvert.analysis.recurrences import Region, descendants, find_recurrences, is_size
from autoconvert.ir.nodes import named_results
from tests.models import WIDTH
from tests.steps import Stepping, run_through, step_of

aten = torch.ops.aten

Step = Callable[[Stepping, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def graph_of(step: Step, *states: tuple[int, ...]) -> tuple[fx.Graph, list[tuple[fx.Node, fx.Node]]]:
    """The canonical graph of a step, and each state before and after it."""
    program = run_through(step_of(Stepping(step, *states)), "canonicalize")
    graph = program.graph.graph
    inputs = {str(node.target): node for node in graph.find_nodes(op="placeholder")}
    results = named_results(graph)
    return graph, [(inputs[state.name], results[state.name]) for state in program.states]


def regions_of(step: Step, *states: tuple[int, ...]) -> list[Region]:
    return find_recurrences(*graph_of(step, *states))


def region_of(step: Step, *states: tuple[int, ...]) -> Region:
    (region,) = regions_of(step, *states)
    return region


def targets(nodes: object) -> list[object]:
    return [node.target for node in nodes]  # type: ignore[attr-defined]


def one(model: Stepping, token: Tensor) -> Tensor:
    return model.embed(token)[:, 0]


def apart(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    first, second = kept[0] * 0.5 + one(model, token), torch.tanh(kept[1]) + one(model, token)
    return first @ model.square + second @ model.square, [first, second]


def chained(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    first = kept[0] * 0.5 + one(model, token)
    second = torch.tanh(kept[1]) + first @ model.square
    return second @ model.square, [first, second]


def entangled(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    first = kept[0] * 0.5 + torch.tanh(kept[1]) + one(model, token)
    second = kept[1] + kept[0]
    return (first + second) @ model.square, [first, second]


def in_a_circle_of_three(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    after = [kept[2] + one(model, token), kept[0] * 0.5, kept[1] * 0.5]
    return after[0] @ model.square, after


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (apart, [[0], [1]]),
        (chained, [[0], [1]]),
        (entangled, [[0, 1]]),
        (in_a_circle_of_three, [[0, 1, 2]]),
    ],
)
def test_states_that_need_each_other_are_one_recurrence(step: Step, expected: list[list[int]]) -> None:
    graph, states = graph_of(step, *[(WIDTH,)] * (max(map(max, expected)) + 1))
    found = find_recurrences(graph, states)
    assert [region.before for region in found] == [tuple(states[i][0] for i in group) for group in expected]
    assert [region.after for region in found] == [tuple(states[i][1] for i in group) for group in expected]


def test_a_recurrence_is_what_is_between_a_state_and_the_next() -> None:
    first, second = regions_of(chained, (WIDTH,), (WIDTH,))
    assert targets(first.nodes) == [aten.mul.Tensor, aten.add.Tensor]
    assert targets(second.nodes) == [aten.tanh.default, aten.add.Tensor]


def test_its_operations_are_in_the_order_of_the_graph() -> None:
    graph, states = graph_of(entangled, (WIDTH,), (WIDTH,))
    (region,) = find_recurrences(graph, states)
    assert list(region.nodes) == [node for node in graph.nodes if node in region.nodes]


def test_it_takes_what_it_reads_besides_its_states() -> None:
    _, second = regions_of(chained, (WIDTH,), (WIDTH,))
    (taken,) = second.inputs
    assert taken.target in (aten.matmul.default, aten.linear.default)


def test_what_is_read_twice_is_taken_once() -> None:
    def twice(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = one(model, token)
        state = kept[0] * x + x
        return state @ model.square, [state]

    assert len(region_of(twice, (WIDTH,)).inputs) == 1


def test_a_state_that_is_replaced_takes_its_next_value() -> None:
    def shifting(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return kept[0] @ model.square, [one(model, token)]

    region = region_of(shifting, (WIDTH,))
    assert region.nodes == ()
    assert region.inputs == list(region.after)
    assert region.outputs == list(region.before)


def test_sizes_are_not_taken() -> None:
    def reshaped(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = (kept[0].reshape(kept[0].shape[0], 2, -1) * 0.5).flatten(1) + one(model, token)
        return state @ model.square, [state]

    region = region_of(reshaped, (WIDTH,))
    assert region.inputs
    assert not any(map(is_size, region.inputs))
    assert not any(map(is_size, region.nodes))


def test_what_is_used_outside_leaves_the_state_before_the_step_among_it() -> None:
    def both(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = kept[0] * 0.5 + one(model, token)
        return state @ model.square + kept[0] @ model.square, [state]

    region = region_of(both, (WIDTH,))
    assert region.outputs == [*region.before, *region.after]


def outer_product(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What is read of the matrix is a vector."""
    x = one(model, token)
    state = kept[0] * 0.5 + x[:, :, None] * x[:, None]
    return (state * torch.tanh(x)[:, None]).sum(-1) @ model.square, [state]


def test_what_makes_fewer_numbers_leave_joins() -> None:
    region = region_of(outer_product, (WIDTH, WIDTH))
    (left,) = region.outputs
    assert left.target is aten.sum.dim_IntList
    assert targets(region.nodes)[-2:] == [aten.mul.Tensor, aten.sum.dim_IntList]


def test_what_makes_more_numbers_leave_stays_outside() -> None:
    def widened(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = kept[0] * 0.5 + one(model, token)
        wide = state[:, :, None] * torch.tanh(state)[:, None]
        return wide.sum(-1) @ model.square + (wide @ model.square)[:, 0], [state]

    region = region_of(widened, (WIDTH,))
    assert region.outputs == list(region.after)


def test_a_value_that_many_use_leaves_once() -> None:
    """Each of its users would join if it were paid for at every one."""

    def shared(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = kept[0] * 0.5 + one(model, token)
        return torch.tanh(state) @ model.square + torch.sigmoid(state) @ model.square, [state]

    region = region_of(shared, (WIDTH,))
    assert region.outputs == list(region.after)


def test_of_equal_cuts_the_one_with_most_operations_is_taken() -> None:
    def activated(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = kept[0] * 0.5 + one(model, token)
        return torch.tanh(state) @ model.square, [state]

    assert targets(region_of(activated, (WIDTH,)).outputs) == [aten.tanh.default]


def test_no_matrix_is_drawn_in() -> None:
    """A product with a matrix would make fewer numbers leave, and be done for one position after the other."""

    def narrowed(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = kept[0] * 0.5 + one(model, token)
        return torch.cat([state @ model.square[:, :2]] * 4, -1), [state]

    region = region_of(narrowed, (WIDTH,))
    assert region.outputs == list(region.after)


def test_a_vector_of_the_model_is_no_matrix() -> None:
    def scaled(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = kept[0] * 0.5 + one(model, token)
        return (state * model.gain).sum(-1, keepdim=True).expand(-1, WIDTH) @ model.square, [state]

    region = region_of(scaled, (WIDTH,))
    assert aten.sum.dim_IntList in targets(region.nodes)
    assert sum(node.op == "placeholder" for node in region.inputs) == 1


def test_only_so_many_operations_join() -> None:
    def long(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        state = x = kept[0] * 0.5 + one(model, token)
        for _ in range(20):
            x = torch.tanh(x)
        return x @ model.square, [state]

    assert targets(region_of(long, (WIDTH,)).nodes).count(aten.tanh.default) == 8


def test_what_reads_two_recurrences_joins_the_later() -> None:
    """It would make fewer numbers leave the first, which has run before there is what it reads of the second."""

    def met(model: Stepping, token: Tensor, kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        x = one(model, token)
        first = kept[0] * 0.5 + x[:, :, None] * x[:, None]
        second = torch.tanh(kept[1]) + first.sum(-1) @ model.square
        return (first * second[:, None]).mean(-1) @ model.square, [first, second]

    first, second = regions_of(met, (WIDTH, WIDTH), (WIDTH,))
    assert aten.mean.dim not in targets(first.nodes)
    assert aten.mean.dim in targets(second.nodes)


def test_descendants_are_tensors_that_are_computed_from_a_value_and_the_value_itself() -> None:
    _, states = graph_of(chained, (WIDTH,), (WIDTH,))
    (before, after), (other, last) = states
    found = descendants(before)
    assert {before, after, last} <= found
    assert other not in found
    assert not any(node.op == "output" or is_size(node) for node in found)
