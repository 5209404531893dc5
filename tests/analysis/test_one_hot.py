"""Masks of classes are read back to the numbers that they come from, or not read at all."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autoconvert.analysis.one_hot import below, class_mask, differ_along, one_hot
from autoconvert.ir.program import Program
from autoconvert.passes.canonicalize import canonicalize
from tests import models
from tests.models import VOCABULARY, WIDTH

CLASSES = VOCABULARY


class Function(nn.Module):
    """A function of tokens [1, s] and a table [vocabulary, width]."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.table = function, nn.Parameter(torch.randn(VOCABULARY, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.function(tokens, self.table)


def canonical(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[fx.Node, Program, Function]:
    """The node of what the function gives, in canonical form."""
    module = Function(function).eval()
    program = models.traced(module)
    program = program.with_graph(canonicalize(program.graph))
    (result,) = program.graph.graph.output_node().all_input_nodes
    return result, program, module


CODES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int | None, ...]]] = {
    "as it is": (lambda tokens, _: F.one_hot(tokens, CLASSES), (0, 1, None)),
    "written out": (lambda tokens, _: tokens[..., None] == torch.arange(CLASSES), (0, 1, None)),
    "cast": (lambda tokens, _: F.one_hot(tokens, CLASSES).to(torch.float32).to(torch.bool), (0, 1, None)),
    "transposed": (lambda tokens, _: F.one_hot(tokens, CLASSES).transpose(1, 2), (0, None, 1)),
    "permuted": (lambda tokens, _: F.one_hot(tokens, CLASSES).permute(2, 0, 1), (None, 0, 1)),
    "permuted twice": (
        lambda tokens, _: F.one_hot(tokens, CLASSES).permute(2, 0, 1).float().permute(1, 0, 2),
        (0, None, 1),
    ),
    "transposed from the end": (lambda tokens, _: F.one_hot(tokens, CLASSES).transpose(-1, -3), (None, 1, 0)),
}


@pytest.mark.parametrize("name", CODES)
def test_a_one_hot_code_is_read_back_to_its_numbers(name: str) -> None:
    function, axes = CODES[name]
    node, program, module = canonical(function)
    code = one_hot(node)
    assert code is not None
    assert (code.numbers.target, code.axes, code.classes) == ("tokens", axes, CLASSES)
    tokens = models.random_ids()
    value = models.execute(program, module, tokens)["logits"]
    expected = F.one_hot(torch.tensor([tokens]), CLASSES).permute([2 if axis is None else axis for axis in axes])
    assert torch.equal(value != 0, expected != 0)


NO_CODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classes do not begin with 0": lambda tokens, _: tokens[..., None] == torch.arange(1, CLASSES),
    "not every class": lambda tokens, _: tokens[..., None] == torch.arange(0, CLASSES, 2),
    "a number in each row": lambda tokens, _: tokens[..., None] == torch.arange(tokens.shape[1]),
    "compared along another axis": lambda tokens, _: tokens[:, None] == torch.arange(3)[:, None],
    "more than the class": lambda tokens, _: tokens[..., None] >= torch.arange(CLASSES),
    "a sum of codes": lambda tokens, _: F.one_hot(tokens, CLASSES).sum(1, keepdim=True),
    "the other classes": lambda tokens, _: 1 - F.one_hot(tokens, CLASSES),
    "part of it": lambda tokens, _: F.one_hot(tokens, CLASSES)[..., 1:],
}


@pytest.mark.parametrize("name", NO_CODES)
def test_anything_else_is_no_code(name: str) -> None:
    node, *_ = canonical(NO_CODES[name])
    assert one_hot(node) is None


MASKS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], int]] = {
    "classes last": (lambda tokens, _: F.one_hot(tokens, CLASSES)[..., 3], (0, 1), 3),
    "classes first": (lambda tokens, _: F.one_hot(tokens, CLASSES).permute(2, 1, 0)[3], (1, 0), 3),
    "classes in the middle": (lambda tokens, _: F.one_hot(tokens, CLASSES).transpose(1, 2)[:, 3], (0, 1), 3),
    "from the end": (lambda tokens, _: F.one_hot(tokens, CLASSES)[..., -1], (0, 1), CLASSES - 1),
    "compared with it": (lambda tokens, _: tokens == 3, (0, 1), 3),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_class_of_a_code_is_where_the_number_is_that(name: str) -> None:
    function, axes, number = MASKS[name]
    node, program, module = canonical(function)
    mask = class_mask(node)
    assert mask is not None
    assert (mask.numbers.target, mask.axes, mask.number) == ("tokens", axes, number)
    tokens = [number if i % 3 == 0 else i % CLASSES for i in range(13)]
    value = models.execute(program, module, tokens)["logits"]
    assert torch.equal(value != 0, (torch.tensor([tokens]) == number).permute(axes))


@pytest.mark.parametrize(
    "function",
    [
        lambda tokens, _: F.one_hot(tokens, CLASSES)[0],
        lambda tokens, _: F.one_hot(tokens, CLASSES).transpose(1, 2)[..., 0],
        lambda tokens, _: (tokens[..., None] >= torch.arange(CLASSES))[..., 3],
        lambda tokens, _: F.one_hot(tokens, CLASSES)[..., 3:4],
        lambda tokens, _: tokens.float() == 3,
        lambda tokens, _: tokens == -1,
    ],
    ids=["a text", "a position", "no code", "a slice", "numbers that are not whole", "no class"],
)
def test_anything_else_is_no_class(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    node, *_ = canonical(function)
    assert class_mask(node) is None


def places(tokens: Tensor, table: Tensor) -> Tensor:
    """Of the largest entries of each row, [1, s, 2]."""
    return F.embedding(tokens, table).topk(2, -1)[1]


BELOW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "as they are": places,
    "reshaped": lambda tokens, table: places(tokens, table).reshape(-1, 2),
    "cast": lambda tokens, table: places(tokens, table).to(torch.int32),
    "one of them": lambda tokens, table: places(tokens, table)[..., 1],
    "some of them": lambda tokens, table: places(tokens, table)[..., :1],
    "of the largest alone": lambda tokens, table: F.embedding(tokens, table).argmax(-1),
}


@pytest.mark.parametrize("name", BELOW)
def test_places_on_an_axis_are_below_its_length(name: str) -> None:
    node, program, module = canonical(BELOW[name])
    assert below(node) == WIDTH
    assert int(models.execute(program, module, models.random_ids())["logits"].max()) < WIDTH


@pytest.mark.parametrize(
    "function",
    [
        lambda tokens, _: tokens,
        lambda tokens, table: places(tokens, table) + 1,
        lambda tokens, table: F.embedding(tokens, table).topk(2, -1)[0],
        lambda tokens, table: F.embedding(tokens, table).topk(1, 1)[1],
        lambda tokens, table: F.embedding(tokens, table).sort(-1)[1],
    ],
    ids=["tokens", "computed from places", "the entries themselves", "places of positions", "another operation"],
)
def test_of_other_numbers_nothing_is_known(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    node, *_ = canonical(function)
    assert below(node) is None


@pytest.mark.parametrize(
    ("function", "axis", "differ"),
    [
        (places, 2, True),
        (places, 1, False),
        (lambda tokens, table: places(tokens, table).to(torch.int32), -1, True),
        (lambda tokens, table: places(tokens, table)[..., :1], -1, True),
        (lambda tokens, table: places(tokens, table).transpose(-1, -2), -2, False),
        (lambda tokens, table: places(tokens, table) // 2, -1, False),
        (lambda tokens, table: F.embedding(tokens, table).argmax(-1), -1, False),
    ],
    ids=["along them", "along others", "cast", "one", "moved", "computed from", "of every position"],
)
def test_places_of_the_largest_differ(function: Callable[[Tensor, Tensor], Tensor], axis: int, differ: bool) -> None:
    node, *_ = canonical(function)
    assert differ_along(node, axis) is differ
