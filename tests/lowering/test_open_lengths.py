"""A graph lowered at two lengths takes any: it computes what PyTorch does, or says which operation cannot."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from autoconvert.lowering.flatbuffer import read_model, write_model
from autoconvert.lowering.open_lengths import FixedLengths, open_lengths
from tests.lowering.on_device import lowered, postponed, run

LENGTHS = {"length": (6, 10)}
# As wide as the first text is long: a size that only looks like a length.
WIDTH = 6


def opened(function: Callable[..., Tensor], other: int = 10) -> bytes:
    one, its_twin = (lowered(function, torch.zeros(length, WIDTH)) for length in (6, other))
    return write_model(open_lengths(one, its_twin, LENGTHS).model)


def split_heads(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 3).transpose(0, 1) * 2


def repeated(x: Tensor) -> Tensor:
    return torch.cat([x, x, x]).reshape(3, -1, WIDTH).sum(0)


def rotated(x: Tensor) -> Tensor:
    return torch.cat([-x[:, 3:], x[:, :3]], dim=-1) + x


def with_a_sink(x: Tensor) -> Tensor:
    scores = x @ x.T
    return torch.cat([scores, x[:, :1]], dim=-1).softmax(-1)[..., :-1] @ x


def of_the_last(x: Tensor) -> Tensor:
    return torch.cat([x[:1], x])[1:] - torch.cat([x, x[-1:]])[-1:]


def with_axes_of_one(x: Tensor) -> Tensor:
    """Two axes are open in what a reshape makes, which puts in and takes out axes of one."""
    scores = (x @ x.T).reshape(1, len(x), 1, len(x)).softmax(-1)
    return scores.reshape(len(x), len(x)) @ x


FUNCTIONS = [with_axes_of_one, split_heads, repeated, rotated, with_a_sink, of_the_last]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("length", [1, 2, 6, 7, 31])
def test_any_length_is_computed(function: Callable[[Tensor], Tensor], length: int) -> None:
    x = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(length))
    (found,) = run(opened(function), x)
    torch.testing.assert_close(found, function(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_shape_is_known_before_the_graph_is_run(function: Callable[[Tensor], Tensor]) -> None:
    assert not postponed(opened(function), (7, WIDTH))


def test_a_size_that_equals_a_length_stays_a_number() -> None:
    model = read_model(opened(split_heads))
    graph = model.subgraphs[0]
    (given,) = (graph.tensors[index] for index in graph.inputs)
    assert np.array(given.shapeSignature).tolist() == [-1, WIDTH]


def test_a_constant_made_for_a_length_is_refused() -> None:
    with pytest.raises(FixedLengths, match="constant"):
        opened(lambda x: x + torch.arange(len(x))[:, None])


def test_a_part_of_an_open_axis_is_refused() -> None:
    with pytest.raises(FixedLengths, match="takes a part of an axis of open length"):
        opened(lambda x: torch.cat([x, -x])[1 : len(x) + 1] * 2)


def test_two_open_axes_told_at_once_are_refused() -> None:
    with pytest.raises(FixedLengths, match="makes 2 axes of open length"):
        opened(lambda x: torch.cat([x, x]).matmul(x.T).reshape(len(x), 2, len(x)) * 2)


def test_other_operations_at_another_length_are_refused() -> None:
    with pytest.raises(FixedLengths, match="length"):
        opened(lambda x: x * 2 if len(x) < 8 else x.exp().cos())


def test_an_axis_that_grows_by_no_whole_number_for_each_of_a_length_is_refused() -> None:
    with pytest.raises(FixedLengths, match="follows from no length"):
        opened(lambda x: x * 2, other=11)


def test_an_axis_that_is_empty_at_a_length_of_one_is_refused() -> None:
    with pytest.raises(FixedLengths, match="follows from no length, in the result of SLICE"):
        opened(lambda x: x[1:] * 2)
