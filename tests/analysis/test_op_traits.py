"""The table of traits holds: what it says of an operation is seen when the operation is run."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from autoconvert.analysis import op_traits
from autoconvert.analysis.op_traits import is_lookup, is_movement, is_pointwise, is_random, is_reduction

aten = torch.ops.aten
N = 4

# How each operation is called on the numbers of a value [4, 1, 4], or [4, 4] where it takes a matrix.
MOVEMENTS: dict[Any, Callable[[Tensor], Any]] = {
    aten.permute.default: lambda x: aten.permute.default(x, [2, 0, 1]),
    aten.reshape.default: lambda x: aten.reshape.default(x, [2, -1]),
    aten.transpose.int: lambda x: aten.transpose.int(x, 0, 2),
    aten.unsqueeze.default: lambda x: aten.unsqueeze.default(x, 1),
    aten.squeeze.dim: lambda x: aten.squeeze.dim(x, 1),
    aten.squeeze.dims: lambda x: aten.squeeze.dims(x, [1]),
    aten.squeeze.default: aten.squeeze.default,
    aten.flip.default: lambda x: aten.flip.default(x, [0, 2]),
    aten.roll.default: lambda x: aten.roll.default(x, [1], [2]),
    aten.expand.default: lambda x: aten.expand.default(x, [N, 3, N]),
    aten.broadcast_to.default: lambda x: aten.broadcast_to.default(x, [N, 3, N]),
    aten.expand_as.default: lambda x: aten.expand_as.default(x, torch.zeros(N, 3, N)),
    aten.repeat.default: lambda x: aten.repeat.default(x, [2, 1, 3]),
    aten.repeat_interleave.self_int: lambda x: aten.repeat_interleave.self_int(x, 2, 0),
    aten.chunk.default: lambda x: aten.chunk.default(x, 2, -1),
    aten.select.int: lambda x: aten.select.int(x, -1, 2),
    aten.slice.Tensor: lambda x: aten.slice.Tensor(x, -1, 1, 4, 2),
    aten.narrow.default: lambda x: aten.narrow.default(x, -1, 1, 2),
    aten.split.Tensor: lambda x: aten.split.Tensor(x, 3, -1),
    aten.split.sizes: lambda x: aten.split.sizes(x, [1, 3], -1),
    aten.split_with_sizes.default: lambda x: aten.split_with_sizes.default(x, [1, 3], -1),
    aten.unbind.int: lambda x: aten.unbind.int(x, -1),
    aten.cat.default: lambda x: aten.cat.default([x, x[:1]], 0),
    aten.stack.default: lambda x: aten.stack.default([x, x], 1),
    aten.flatten.using_ints: lambda x: aten.flatten.using_ints(x, 1),
    aten.unflatten.int: lambda x: aten.unflatten.int(x, -1, [2, 2]),
    aten.view.default: lambda x: aten.view.default(x, [2, -1]),
    aten._unsafe_view.default: lambda x: aten._unsafe_view.default(x, [2, N * N // 2]),
    aten.view_as.default: lambda x: aten.view_as.default(x, torch.zeros(2, N * N // 2)),
    aten.mT.default: lambda x: aten.mT.default(x[:, 0]),
    aten.numpy_T.default: lambda x: aten.numpy_T.default(x[:, 0]),
    aten.t.default: lambda x: aten.t.default(x[:, 0]),
    **{
        copy: copy
        for copy in (
            aten.alias.default,
            aten.clone.default,
            aten.contiguous.default,
            aten.detach.default,
            aten.lift_fresh_copy.default,
        )
    },
}
INDEX = torch.tensor([[2, 0, 3], [1, 1, 0]])
LOOKUPS: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    aten.embedding.default: lambda x, index: aten.embedding.default(x[:, 0], index),
    aten.gather.default: lambda x, index: aten.gather.default(x[:, 0], 0, index),
    aten.index.Tensor: lambda x, index: aten.index.Tensor(x, [index]),
    aten.index_select.default: lambda x, index: aten.index_select.default(x, 0, index.flatten()),
}
POINTWISE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    aten._to_copy.default: lambda a, b: aten._to_copy.default(a, dtype=torch.float64),
    aten.copy.default: aten.copy.default,
    aten.complex.default: aten.complex.default,
    aten.floor_divide.default: aten.floor_divide.default,
    aten.hardswish.default: lambda a, b: aten.hardswish.default(a),
    aten.imag.default: lambda a, b: aten.imag.default(torch.complex(a, b)),
    aten.real.default: lambda a, b: aten.real.default(torch.complex(a, b)),
    aten.log_sigmoid.default: lambda a, b: aten.log_sigmoid.default(a),
    aten.masked_fill.Tensor: lambda a, b: aten.masked_fill.Tensor(a, b > 0, torch.tensor(3.0)),
    aten.polar.default: lambda a, b: aten.polar.default(a.abs(), b),
    aten.rsub.Tensor: aten.rsub.Tensor,
    aten.where.Scalar: lambda a, b: aten.where.Scalar(a > b, 1.0, 2.0),
    aten.where.ScalarOther: lambda a, b: aten.where.ScalarOther(a > 0, b, 2.0),
    aten.where.ScalarSelf: lambda a, b: aten.where.ScalarSelf(a > 0, 2.0, b),
    aten.__and__.Tensor: lambda a, b: aten.__and__.Tensor(a > 0, b > 0),
    aten.__or__.Tensor: lambda a, b: aten.__or__.Tensor(a > 0, b > 0),
    # Some that PyTorch tags.
    aten.add.Tensor: aten.add.Tensor,
    aten.gelu.default: lambda a, b: aten.gelu.default(a),
    aten.where.self: lambda a, b: aten.where.self(a > 0, a, b),
}
CONTRACTIONS: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    aten.addmm.default: lambda a, b: aten.addmm.default(a.new_zeros(N), a, b),
    aten.bmm.default: lambda a, b: aten.bmm.default(a[None], b[None]),
    aten.linear.default: aten.linear.default,
    aten.matmul.default: aten.matmul.default,
    aten.mm.default: aten.mm.default,
}


def by_name(operations: Iterable[Any]) -> list[Any]:
    return sorted(operations, key=str)


def numbers(*sizes: int) -> Tensor:
    """All different."""
    return torch.randperm(torch.Size(sizes).numel(), generator=torch.Generator().manual_seed(0)).view(sizes) + 1.0


def entries(value: Any) -> set[float]:
    parts = value if isinstance(value, list | tuple) else [value]
    return {number for part in parts for number in part.flatten().tolist()}


@pytest.mark.parametrize("operation", MOVEMENTS, ids=str)
def test_what_moves_entries_changes_none(operation: Any) -> None:
    x = numbers(N, 1, N)
    found = MOVEMENTS[operation](x)
    assert is_movement(operation)
    assert entries(found) <= entries(x)
    # It is the places that it moves: other numbers move alike.
    moved = MOVEMENTS[operation](x * 2)
    pairs = zip(moved, found, strict=True) if isinstance(found, list | tuple) else [(moved, found)]
    assert all(torch.equal(other, part * 2) for other, part in pairs)


def test_everything_in_the_table_is_run() -> None:
    """Of movements all but picking one of several results."""
    assert set(MOVEMENTS) == op_traits._MOVEMENTS - {operator.getitem}
    assert set(LOOKUPS) == op_traits._LOOKUPS
    assert set(CONTRACTIONS) == op_traits.CONTRACTIONS
    assert set(POINTWISE) >= op_traits.UNTAGGED_POINTWISE


@pytest.mark.parametrize(
    "operation", by_name(op_traits.REARRANGEMENTS | op_traits.SQUEEZES | op_traits.ROTATIONS), ids=str
)
def test_a_rearrangement_has_every_entry_once(operation: Any) -> None:
    x = numbers(N, 1, N)
    assert sorted(MOVEMENTS[operation](x).flatten().tolist()) == sorted(x.flatten().tolist())


@pytest.mark.parametrize("operation", LOOKUPS, ids=str)
def test_a_lookup_gives_entries_of_its_first_operand_where_indices_say(operation: Any) -> None:
    x = numbers(N, 1, N)
    found, other = (LOOKUPS[operation](x, index) for index in (INDEX, N - 1 - INDEX))
    assert is_lookup(operation)
    assert entries(found) <= entries(x)
    # The same entries from a table upside down.
    assert torch.equal(LOOKUPS[operation](x.flip(0), INDEX), other)


@pytest.mark.parametrize("operation", POINTWISE, ids=str)
def test_what_is_pointwise_does_not_see_the_order_of_entries(operation: Any) -> None:
    a, b = numbers(N * N) - 8.5, numbers(N * N).flip(0) - 8.5
    order = numbers(N * N).long() - 1
    assert is_pointwise(operation)
    assert torch.equal(POINTWISE[operation](a[order], b[order]), POINTWISE[operation](a, b)[order])


def test_the_table_has_only_what_pytorch_does_not_tag() -> None:
    assert not any(torch.Tag.pointwise in operation.tags for operation in op_traits.UNTAGGED_POINTWISE)


@pytest.mark.parametrize("operation", CONTRACTIONS, ids=str)
def test_a_contraction_is_linear_in_each_operand(operation: Any) -> None:
    a, b, c = torch.randn(3, N, N, generator=torch.Generator().manual_seed(0)).double()
    product = CONTRACTIONS[operation]
    torch.testing.assert_close(product(2 * a + c, b), 2 * product(a, b) + product(c, b))
    torch.testing.assert_close(product(b, 2 * a + c), 2 * product(b, a) + product(b, c))
    assert not torch.allclose(product(a, b), product(a, b.roll(1, 0)))


@pytest.mark.parametrize(
    "operation", by_name(op_traits.FILLS - {aten.empty_like.default, aten.new_empty.default}), ids=str
)
def test_a_fill_does_not_see_numbers(operation: Any) -> None:
    sizes = [] if "_like" in str(operation) else [[2, 3]]
    value = [3.0] if "full" in str(operation) else []
    first, second = (operation(x, *sizes, *value) for x in (numbers(N, N), -numbers(N, N)))
    assert torch.equal(first, second)
    assert len(entries(first)) == 1


@pytest.mark.parametrize(
    ("asked", "operation", "others"),
    [
        (is_movement, aten.reshape.default, (aten.add.Tensor, aten.embedding.default, aten.tril.default)),
        (is_lookup, aten.embedding.default, (aten.slice.Tensor, aten.scatter.src)),
        (is_pointwise, aten.mul.Tensor, (aten.softmax.int, aten.cumsum.default, aten.sum.dim_IntList)),
        (is_reduction, aten.sum.dim_IntList, (aten.cumsum.default, aten.softmax.int, aten.select.int)),
        (is_random, aten.bernoulli.default, (aten.zeros.default, aten.sin.default)),
    ],
)
def test_what_has_a_trait_and_what_has_not(asked: Callable[[Any], bool], operation: Any, others: Any) -> None:
    assert asked(operation)
    assert not any(map(asked, (*others, len, "module.of.a.scan")))
