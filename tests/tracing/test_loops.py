"""Loops over places are traced for every place, and never believed to know more than a run would."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from autoconvert import ops
from autoconvert.errors import Inseparable
from autoconvert.ir.nodes import arguments
from autoconvert.tracing.exported import export
from autoconvert.tracing.loops import Places, trace_loops

ROWS, WIDTH = 4, 3


class Function(nn.Module):
    """A function of x [4, 3] and of a parameter for each of three classes."""

    def __init__(self, body: Callable[["Function", Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.scales = nn.ParameterList(torch.randn(WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def traced(body: Callable[[Function, Tensor], Tensor]) -> ExportedProgram:
    return export(Function(body), (torch.ones(ROWS, WIDTH),))


def marks(exported: ExportedProgram) -> list[tuple[int, int]]:
    """Number and loop of each."""
    found = exported.graph.find_nodes(op="call_function", target=ops.visit)
    return [tuple(arguments(mark)[1:]) for mark in found]


def added(function: Function, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for place in (x.sum(-1) > 0).nonzero():
        total = total.index_add(0, place, x[place] * 2)
    return total


def test_every_place_is_visited_with_a_mark_and_the_end_has_one() -> None:
    assert marks(traced(added)) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]


def test_marks_are_of_the_mask_that_is_iterated_over() -> None:
    exported = traced(added)
    (hit,) = {mark.args[0] for mark in exported.graph.find_nodes(op="call_function", target=ops.visit)}
    assert hit.target is torch.ops.aten.gt.Scalar


def test_each_loop_has_a_number() -> None:
    found = marks(traced(lambda f, x: added(f, added(f, x))))
    assert [number for number, loop in found if loop == 1] == [0, 1, 2, 3, 4]


def test_a_place_may_be_taken_apart_and_be_a_number() -> None:
    def by_item(function: Function, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for place in torch.nonzero(x.sum(-1) > 0):
            number = place.item()
            total = total.index_add(0, place, x[number : number + 1])
        return total

    assert len(marks(traced(by_item))) == ROWS + 1


def test_a_trace_without_loops_is_traced_once() -> None:
    calls = []

    def trace() -> ExportedProgram:
        calls.append(1)
        return torch.export.export(Function(lambda _, x: x * 2), (torch.ones(ROWS, WIDTH),), strict=False)

    assert isinstance(trace_loops(trace), ExportedProgram)
    assert len(calls) == 1


def test_what_is_no_vector_of_known_length_is_searched_as_ever() -> None:
    with Places({}) as places:
        assert torch.equal(torch.eye(2).nonzero(), torch.tensor([[0, 0], [1, 1]]))
        (rows,) = torch.tensor([0, 1, 1]).nonzero(as_tuple=True)
        assert rows.tolist() == [1, 2]
    assert places.loops == 0


def test_a_class_without_weights_and_those_after_it_are_left_out() -> None:
    """As the model's own code fails there, such an iteration never happens."""

    def with_parameters(function: Function, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for place in (x.sum(-1) > 0).nonzero():
            total = total.index_add(0, place, x[place] * function.scales[int(place)])
        return total

    assert marks(traced(with_parameters)) == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_a_loop_that_cannot_be_traced_at_all_fails_as_its_code_does() -> None:
    def failing(function: Function, x: Tensor) -> Tensor:
        for place in (x.sum(-1) > 0).nonzero():
            x = x + function.scales[int(place) + 3]
        return x

    with pytest.raises(IndexError):
        traced(failing)


WAYS_TO_ASK: dict[str, Callable[[Tensor], object]] = {
    "equal": lambda rows: rows.numel() == 0,
    "turned around": lambda rows: operator.eq(0, rows.numel()),
    "not equal": lambda rows: not operator.ne(rows.numel(), 0),
    "truth": lambda rows: not rows.numel(),
}


@pytest.mark.parametrize("name", WAYS_TO_ASK)
def test_an_iteration_may_ask_once_whether_it_has_any_entry(name: str) -> None:
    """And do nothing where it has none: what it would have done anyway."""

    def skipping(function: Function, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for place in (x.sum(-1) > 0).nonzero():
            (rows,) = torch.where(x[:, 0] > place)
            if WAYS_TO_ASK[name](rows):
                continue
            total = total.index_add(0, rows, x[rows] * 2)
        return total

    exported = traced(skipping)
    assert len(exported.graph.find_nodes(op="call_function", target=torch.ops.aten.index_add.default)) == ROWS


def test_what_it_does_without_entries_must_be_nothing() -> None:
    def adding(function: Function, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for place in (x.sum(-1) > 0).nonzero():
            (rows,) = torch.where(x[:, 0] > place)
            if rows.numel() == 0:
                total = total.index_add(0, place, x[place])
                continue
            total = total.index_add(0, rows, x[rows] * 2)
        return total

    with pytest.raises(Inseparable, match="knows how often a loop runs"):
        traced(adding)


def asking(question: Callable[[Tensor], object]) -> Callable[[Function, Tensor], Tensor]:
    def body(function: Function, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for place in (x.sum(-1) > 0).nonzero():
            (rows,) = torch.where(x[:, 0] > place)
            question(rows)
            total = total.index_add(0, rows, x[rows])
        return total

    return body


QUESTIONS: dict[str, Callable[[Tensor], object]] = {
    "more than once": lambda rows: (rows.numel() == 0, rows.numel() == 0),
    "how many": lambda rows: rows.numel() > 1,
    "whether one": lambda rows: rows.numel() == 1,
    "to compute": lambda rows: rows * rows.numel(),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_iteration_is_told_how_many_entries_it_has(name: str) -> None:
    with pytest.raises(TypeError):
        traced(asking(QUESTIONS[name]))


def test_outside_of_a_loop_counts_are_as_they_were() -> None:
    def counted(function: Function, x: Tensor) -> Tensor:
        assert x.numel() == ROWS * WIDTH
        return added(function, x)

    assert marks(traced(counted))


def test_how_many_places_there_are_is_not_to_be_asked() -> None:
    with pytest.raises(TypeError, match="has no len"):
        traced(lambda f, x: x * len((x.sum(-1) > 0).nonzero()))


def test_a_loop_whose_iterations_are_counted_is_refused() -> None:
    def counted(function: Function, x: Tensor) -> Tensor:
        return x * sum(1 for _ in (x.sum(-1) > 0).nonzero())

    with pytest.raises(Inseparable, match="knows how often a loop runs"):
        traced(counted)


def test_a_loop_that_hands_on_a_value_is_refused() -> None:
    def handed_on(function: Function, x: Tensor) -> Tensor:
        for place in (x.sum(-1) > 0).nonzero():
            x = x * (1 + x[place])
        return x

    with pytest.raises(Inseparable, match="is used after its iteration"):
        traced(handed_on)
