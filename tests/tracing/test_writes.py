"""Graphs with writes into views give as values what they gave by writing."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from autoconvert.tracing.writes import without_writes, writes

Function = Callable[[Tensor], Tensor]


class Model(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("kept", torch.zeros(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def exported(function: Function) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            Model(function).eval(),
            (torch.randn(5, 4, 6, dtype=torch.float64),),
            dynamic_shapes=({0: Dim("s", min=2, max=64)},),
        )


def parts_of_a_buffer(x: Tensor) -> Tensor:
    whole = x.new_empty(x.shape[0], 4, 6)
    whole[..., :2].copy_(x[..., 4:])
    whole[..., 2:] = x[..., :4]
    return whole


def read_before_and_after(x: Tensor) -> Tensor:
    y = x.clone()
    first = y[:, 0]
    before = first + 1
    y[:, 0] *= 2
    return before + first + y.sum(1)


def through_another_view(x: Tensor) -> Tensor:
    y = x.clone()
    turned = y.transpose(1, 2)
    turned[:, 3:5].add_(turned[:, :2])
    return y + turned.transpose(1, 2)


def what_a_write_gives(x: Tensor) -> Tensor:
    y = x.clone()
    z = y.mul_(2)
    z[:, 1].zero_()
    return y + z.relu_()


def in_its_own_type(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y.copy_(x > 0)
    return y.view(-1, 24).masked_fill_(x.view(-1, 24) > 1, 7.0)


def flattened(x: Tensor) -> Tensor:
    y = x * 2
    y.view(-1, 24)[:, 3:9] = 0.5
    return y.unsqueeze(1).add_(1).squeeze(1) + y


def after_casts(x: Tensor) -> Tensor:
    y = x.clone()
    same, other = y.to(torch.float64), y.to(torch.float32)
    y[:, 1] = 3.0
    copied = y.to(torch.float64, copy=True)
    return same + other + copied


def permuted(x: Tensor) -> Tensor:
    y = x * 2
    y.permute(2, 0, 1)[1].add_(5.0)
    return y + y.select(1, 0).unsqueeze(1).squeeze(1).mul_(3).sum()


WRITES: list[Callable[[Tensor, Tensor], Tensor]] = [Tensor.add_, Tensor.copy_, Tensor.mul_]

COVERED = [
    after_casts,
    permuted,
    parts_of_a_buffer,
    read_before_and_after,
    through_another_view,
    what_a_write_gives,
    in_its_own_type,
    flattened,
]


@pytest.mark.parametrize("function", COVERED, ids=lambda function: function.__name__)
def test_what_is_read_after_a_write_is_what_was_written(function: Function) -> None:
    program = exported(function)
    assert without_writes(program.graph)
    assert_same(program, function)


@pytest.mark.parametrize("seed", range(40))
def test_views_and_writes_in_any_order_give_the_same(seed: int) -> None:
    def function(x: Tensor) -> Tensor:
        return shuffled(x, random.Random(seed))

    program = exported(function)
    assert any(map(writes, program.graph.nodes))
    assert without_writes(program.graph)
    assert_same(program, function)


def shuffled(x: Tensor, choices: random.Random) -> Tensor:
    """Views of each other, writes into any of them, and values that were read in between."""
    views, read = [x.clone()], [x.sum((1, 2))]
    for _ in range(14):
        view = choices.choice(views)
        kind = choices.randrange(8)
        if kind == 0 and view.shape[-1] > 1:
            views.append(view[..., choices.randrange(view.shape[-1] - 1) :])
        elif kind == 1 and view.dim() > 2:
            views.append(view[:, choices.randrange(view.shape[1])])
        elif kind == 2 and view.dim() > 2:
            views.append(view.transpose(-1, -2))
        elif kind == 3:
            views.append(view.unsqueeze(1))
        elif kind == 5:
            views.append(view.permute(0, *reversed(range(1, view.dim()))))
            read.append(summed(view))
        elif kind == 4 and view.shape[1] == 1:
            views.append(view.squeeze(1))
        else:
            other = choices.choice(views)
            value = summed(other).reshape(-1, *[1] * (view.dim() - 1))
            choices.choice(WRITES)(view, value)
    return torch.stack([*read, *(summed(view.cos()) for view in views)])


def summed(view: Tensor) -> Tensor:
    return view.sum(tuple(range(1, view.dim()))) / 7


def of_a_view_or_a_copy(x: Tensor) -> Tensor:
    y = x.clone()
    maybe = y.reshape(-1, 24)
    y[:, 0] = 0.0
    return maybe + y.reshape(-1, 24)


def of_an_input(x: Tensor) -> Tensor:
    return x.add_(1.0)


def of_one_of_many(x: Tensor) -> Tensor:
    y = x.clone()
    first, second = y.chunk(2, dim=-1)
    first.add_(second)
    return y


@pytest.mark.parametrize("function", [of_a_view_or_a_copy, of_an_input, of_one_of_many], ids=lambda f: f.__name__)
def test_a_write_that_cannot_be_followed_is_left_alone(function: Function) -> None:
    program = exported(function)
    before = [(node.op, node.target) for node in program.graph.nodes]
    assert not without_writes(program.graph)
    assert [(node.op, node.target) for node in program.graph.nodes] == before


def assert_same(program: ExportedProgram, function: Function) -> None:
    assert not any(map(writes, program.graph.nodes))
    program.graph.lint()
    program.graph_module.recompile()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(program.module()(x), function(x.clone()))
