"""What is known of the columns after a row's own, operation by operation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.analysis.later_columns import NEUTRAL, Later, NoMoreThan, chosen, of_result, of_table
from autoconvert.ir.editing import traced

aten = torch.ops.aten
LOW, ANY = -1e9, None


def later_of(function: Callable[..., Tensor], *later: Later, dtype: torch.dtype = torch.float32) -> Later:
    """What the result of the last operation holds, the operands [2, 4, 4] holding `later`."""
    with FakeTensorMode() as mode:
        values = {f"x{index}": mode.from_tensor(torch.zeros(2, 4, 4, dtype=dtype)) for index in range(len(later))}
    graph = traced(lambda **bound: {"y": function(*bound.values())}, values).graph
    known: dict[fx.Node, Later] = dict(zip(graph.find_nodes(op="placeholder"), later, strict=True))
    for node in graph.nodes:
        if node.op == "call_function":
            known[node] = of_result(node, -1, lambda each: known.get(each) if isinstance(each, fx.Node) else each)
    return list(known.values())[-1]


@pytest.mark.parametrize(
    ("function", "later", "expected"),
    [
        (lambda x, y: x + y, (LOW, ANY), LOW),
        (lambda x, y: x + y, (0.0, ANY), ANY),
        (lambda x, y: y - x, (LOW, ANY), ANY),
        (lambda x, y: x - y, (LOW, ANY), LOW),
        (lambda x, y: x * y, (0.0, ANY), 0.0),
        (lambda x, y: x * y, (LOW, ANY), ANY),
        (lambda x, y: x / y, (0.0, ANY), 0.0),
        (lambda x, y: x / y, (ANY, 0.0), ANY),
        (lambda x: x * -1.0, (LOW,), -LOW),
        (lambda x: torch.relu(x), (LOW,), 0.0),
        (lambda x: torch.exp(x), (0.0,), 1.0),
        (lambda x: x.softmax(-1), (LOW,), 0.0),
        (lambda x: x.softmax(-1), (ANY,), ANY),
        (lambda x: x.softmax(-3), (LOW,), ANY),
        (lambda x: x.transpose(0, 1)[:, None], (LOW,), LOW),
        (lambda x, y: torch.cat([x, y]), (0.0, 0.0), 0.0),
        (lambda x, y: torch.cat([x, y]), (0.0, ANY), ANY),
        (lambda x, y: x.transpose(-1, -2) @ y, (0.0, ANY), 0.0),
        (lambda x: torch.full_like(x, 3.0), (ANY,), 3.0),
        (lambda x: x.cumsum(-1), (0.0,), ANY),
    ],
)
def test_of_numbers(function: Callable[..., Tensor], later: tuple[Later, ...], expected: Later) -> None:
    assert later_of(function, *later) == expected


@pytest.mark.parametrize(
    ("function", "later", "expected"),
    [
        (lambda x, y: x & y, (False, ANY), False),
        (lambda x, y: x & y, (True, ANY), ANY),
        (lambda x, y: x | y, (True, ANY), True),
        (lambda x: ~x, (False,), True),
        (lambda x, y, z: torch.where(x, y, z), (True, False, ANY), False),
        (lambda x, y, z: torch.where(x, y, z), (ANY, False, False), False),
        (lambda x, y, z: torch.where(x, y, z), (ANY, False, True), ANY),
    ],
)
def test_of_truths(function: Callable[..., Tensor], later: tuple[Later, ...], expected: Later) -> None:
    found = later_of(function, *later, dtype=torch.bool)
    assert (found, type(found)) == (expected, type(expected))


def test_of_tables() -> None:
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    assert of_table(later) is True
    assert of_table(torch.zeros(4, 4).masked_fill(later, -torch.inf)) == -torch.inf
    assert of_table(torch.full((4, 4), -2e9).masked_fill(torch.eye(4).roll(1, 1) > 0, -1e9)) == -1e9
    assert of_table(torch.rand(4, 4)) is None
    assert of_table(torch.rand(4, 8)) is None


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x == LOW, ANY),
        (lambda x: x != -2e9, ANY),
        (lambda x: x < -1e4, True),
        (lambda x: x > -1e4, False),
        (lambda x: x < -2e9, ANY),
        (lambda x: x <= LOW, ANY),
        (lambda x: torch.maximum(x, torch.full_like(x, LOW)) == LOW, ANY),
        (lambda x: torch.exp(x), 0.0),
        (lambda x: x - x, ANY),
        (lambda x: x * x, ANY),
        (lambda x: torch.sin(x), ANY),
        (lambda x: -x, ANY),
    ],
)
def test_a_bound_is_no_number_to_compare_with(function: Callable[..., Tensor], expected: Later) -> None:
    found = later_of(function, NoMoreThan(LOW))
    assert (found, isinstance(found, NoMoreThan)) == (expected, False)


def test_a_bound_stays_one() -> None:
    bound = NoMoreThan(LOW)
    for function in (
        lambda x: x + 1.0,
        lambda x: x / 2.0,
        lambda x: x[:, None],
        lambda x: torch.cat([x, x]),
        lambda x: torch.maximum(x, torch.full_like(x, LOW)),
        lambda x: torch.clamp_min(x, -3e9),
    ):
        found = later_of(function, bound)
        assert isinstance(found, NoMoreThan) and found <= LOW / 2 + 1
    mixed = [later_of(lambda x, y: x + y, LOW, beside) for beside in (ANY, bound)]
    for found in (*mixed, chosen(None, LOW, 2 * LOW), of_table(torch.full((3, 3), -5e9).triu(2) - 5e9)):
        assert isinstance(found, NoMoreThan) and NEUTRAL[aten.amax.default](found)


def test_what_a_row_combines_must_be_hidden_in_its_own_way() -> None:
    assert NEUTRAL[aten.softmax.int](LOW) and not NEUTRAL[aten.softmax.int](0.0)
    assert NEUTRAL[aten.sum.dim_IntList](0.0) and not NEUTRAL[aten.sum.dim_IntList](LOW)
    assert NEUTRAL[aten.any.dim](False) and not NEUTRAL[aten.any.dim](0.0)
    assert not any(is_neutral(None) for name, is_neutral in NEUTRAL.items() if name is not aten.cumsum.default)
