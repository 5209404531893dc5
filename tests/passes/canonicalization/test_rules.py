"""Ways to write one thing, and things that are near and stay apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.passes.forms import WIDTH, Function, form, operations

aten = torch.ops.aten

HALF = WIDTH // 2
KEPT = torch.ones(64, WIDTH).tril()
THIRDS = KEPT / 3


def heads(x: Tensor) -> Tensor:
    """[1, 2, s, 4]"""
    return x.view(1, -1, 2, HALF).transpose(1, 2)


def blend(x: Tensor, share: Tensor) -> Tensor:
    return x * share + -5.0 * (1 - share)


def blend_backwards(x: Tensor, share: Tensor) -> Tensor:
    return (1.0 - share) * -5.0 + share * x


def written(x: Tensor, m: Tensor) -> Tensor:
    whole = x.new_empty(x.shape)
    whole[..., :3] = x[..., 5:]
    whole[..., 3:] = m[0, :5]
    return whole


def written_backwards(x: Tensor, m: Tensor) -> Tensor:
    whole = torch.zeros_like(x)
    whole[..., 3:] = m[0, :5]
    whole[..., :3] = x[..., 5:]
    return whole


def written_in_place(x: Tensor, m: Tensor) -> Tensor:
    whole = x.clone()
    whole[..., :HALF].mul_(2.0)
    return whole


def one_written(x: Tensor, m: Tensor) -> Tensor:
    whole = x.clone()
    whole[..., 2] = m[0, 0]
    return whole


def written_twice(x: Tensor, m: Tensor) -> Tensor:
    whole = x.new_empty(1, 2, x.shape[1], WIDTH)
    whole[:, 0, :, :3] = x[..., :3]
    whole[:, 0, :, 3:] = x[..., :5]
    whole[:, 1] = x
    return whole


SHAPES: dict[str, tuple[Function, ...]] = {
    "heads in a row": (
        lambda x, m: heads(x)[:, :, None].expand(1, 2, 3, x.shape[1], HALF).reshape(1, 6, x.shape[1], HALF).relu(),
        lambda x, m: heads(x).repeat_interleave(3, dim=1).relu(),
        lambda x, m: heads(x).repeat_interleave(3, 1).relu(),
        lambda x, m: torch.repeat_interleave(heads(x), repeats=3, dim=-3).relu(),
    ),
    "heads as a whole": (
        lambda x, m: heads(x)[:, None].expand(1, 3, 2, x.shape[1], HALF).reshape(1, 6, x.shape[1], HALF).relu(),
        lambda x, m: heads(x).repeat(1, 3, 1, 1).relu(),
        lambda x, m: heads(x).tile(1, 3, 1, 1).relu(),
        lambda x, m: heads(x).tile(3, 1, 1).relu(),
    ),
    "one head for all": (
        lambda x, m: x[:, None].expand(-1, 3, -1, -1).relu(),
        lambda x, m: x[:, None].repeat(1, 3, 1, 1).relu(),
        lambda x, m: x[:, None].expand(1, 3, x.shape[1], WIDTH).relu(),
        lambda x, m: x[:, None].broadcast_to(1, 3, x.shape[1], WIDTH).relu(),
    ),
    "a new axis of copies": (
        lambda x, m: x[None].expand(3, -1, -1, -1).relu(),
        lambda x, m: x.repeat(3, 1, 1, 1).relu(),
    ),
    "pairs of a table": (
        lambda x, m: x[..., None].expand(-1, -1, -1, 2).reshape(1, -1, 2 * WIDTH),
        lambda x, m: x.repeat_interleave(2, dim=-1),
    ),
    "stacked": (
        lambda x, m: torch.cat((x[..., None], x.relu()[..., None]), -1).flatten(-2),
        lambda x, m: torch.stack((x, x.relu()), dim=-1).flatten(-2),
        lambda x, m: torch.stack((x, x.relu()), 3).view(1, -1, 2 * WIDTH),
        lambda x, m: torch.concat((x.unsqueeze(3), x.relu().unsqueeze(3)), dim=3).reshape(1, -1, 2 * WIDTH),
    ),
    "stacked in front": (
        lambda x, m: torch.cat((x.sin()[None], x.relu()[None])),
        lambda x, m: torch.stack((x.sin(), x.relu())),
    ),
    "axes moved": (
        lambda x, m: x.view(1, -1, 2, HALF).transpose(1, 2).relu(),
        lambda x, m: x.view(1, -1, 2, HALF).permute(0, 2, 1, 3).relu(),
        lambda x, m: x.view(1, -1, 2, HALF).movedim(2, 1).relu(),
        lambda x, m: x.view(1, -1, 2, HALF).swapaxes(1, -2).relu(),
        lambda x, m: torch.moveaxis(x.view(1, -1, 2, HALF), 1, 2).relu(),
        lambda x, m: x.view(1, -1, 2, HALF).swapdims(2, 1).relu(),
    ),
    "an axis moved to where it is, or dropped that is not one": (
        lambda x, m: x.sin().relu(),
        lambda x, m: x.sin().transpose(-1, 2).relu(),
        lambda x, m: x.sin().squeeze(-1).relu(),
    ),
    "an axis of one dropped": (
        lambda x, m: x[:, :, :1].view(1, -1).relu(),
        lambda x, m: x[:, :, :1].flatten(1).relu(),
        lambda x, m: x[:, :, :1].reshape(1, x.shape[1]).relu(),
    ),
    "shape of another": (
        lambda x, m: x.view(1, -1, 2, HALF).relu().view(1, -1, WIDTH),
        lambda x, m: x.view(1, -1, 2, HALF).relu().view_as(x),
        lambda x, m: x.view(1, -1, 2, HALF).relu().reshape_as(x),
    ),
    "expanded as another": (
        lambda x, m: x[..., :1].expand(-1, -1, WIDTH).relu(),
        lambda x, m: x[..., :1].expand_as(x).relu(),
    ),
}

PAIRS: dict[str, tuple[Function, ...]] = {
    "filled": (
        lambda x, m: x @ x.mT + torch.full((x.shape[1], x.shape[1]), 0.5, dtype=x.dtype).triu(1),
        lambda x, m: x @ x.mT + x.new_full((x.shape[1], x.shape[1]), 0.5).triu(1),
        lambda x, m: x @ x.mT + (x @ x.mT).new_full((x.shape[1], x.shape[1]), 0.5).triu(1),
    ),
    "filled with ones": (
        lambda x, m: x @ x.mT + torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).triu(1),
        lambda x, m: x @ x.mT + x.new_ones(x.shape[1], x.shape[1]).triu(1),
    ),
    "product": (
        lambda x, m: (x @ x.mT).relu() @ x,
        lambda x, m: (x.mT @ (x @ x.mT).relu().mT).mT,
        lambda x, m: torch.einsum("bnd,bmn->bmd", x, torch.einsum("bmd,bnd->bmn", x, x).relu()),
    ),
}

PARTS: dict[str, tuple[Function, ...]] = {
    "thirds": (
        lambda x, m: x[..., 3:6].relu(),
        lambda x, m: x.split((3, 3, 2), -1)[1].relu(),
        lambda x, m: x.tensor_split(3, -1)[1].relu(),
        lambda x, m: x.tensor_split((3, 6), -1)[1].relu(),
        lambda x, m: x.narrow(-1, 3, 3).relu(),
        lambda x, m: x[..., [3, 4, 5]].relu(),
        lambda x, m: x[..., torch.tensor([-5, -4, -3])].relu(),
    ),
    "every second": (
        lambda x, m: x[..., 1::2].relu(),
        lambda x, m: x[:, :, 1:WIDTH:2].relu(),
        lambda x, m: x[..., [1, 3, 5, 7]].relu(),
        lambda x, m: x.view(1, -1, HALF, 2)[..., 1].relu(),
        lambda x, m: x.view(1, -1, HALF, 2).unbind(-1)[1].relu(),
        lambda x, m: x.view(1, -1, HALF, 2).select(3, -1).relu(),
        lambda x, m: torch.unbind(x.unflatten(-1, (HALF, 2)), dim=3)[1].relu(),
    ),
    "every second of heads": (
        lambda x, m: x.view(1, 1, -1, WIDTH)[..., ::2].relu(),
        lambda x, m: x.view(1, 1, -1, WIDTH).view(1, 1, -1, HALF, 2)[..., 0].relu(),
    ),
    "half": (
        lambda x, m: x[..., HALF:].relu(),
        lambda x, m: x.view(1, -1, 2, HALF)[..., 1, :].relu(),
        lambda x, m: x.view(1, -1, 2, HALF).unbind(-2)[1].relu(),
    ),
    "one of three in each head": (
        lambda x, m: (x @ m[:, :6]).view(1, -1, 2, 3)[..., 1:2].relu(),
        lambda x, m: (x @ m[:, :6]).view(1, -1, 2, 3, 1)[..., 1, :].relu(),
        lambda x, m: (x @ m[:, :6]).view(1, -1, 2, 3, 1).unbind(3)[1].relu(),
    ),
    "one of two that lie apart": (
        lambda x, m: x.relu().view(1, -1, 2, HALF).transpose(-1, -2)[..., 1],
        lambda x, m: x.relu().view(1, -1, 2, HALF).mT.unbind(-1)[1],
    ),
    "nothing concatenated": (
        lambda x, m: x.relu(),
        lambda x, m: torch.cat((torch.tensor([]), x), 1).relu(),
        lambda x, m: torch.cat((x[..., :0], x), -1).relu(),
        lambda x, m: torch.cat((x,), -1).relu(),
        lambda x, m: torch.cat((x.new_zeros(0), x, x.new_zeros(1, x.shape[1], 0)), -1).relu(),
    ),
    "written from end to end": (
        lambda x, m: torch.cat((x[..., 5:], m[0, :5].expand(1, x.shape[1], 5)), -1),
        written,
        written_backwards,
    ),
    "doubled in place": (
        lambda x, m: torch.cat((x[..., :HALF] * 2.0, x[..., HALF:]), -1),
        written_in_place,
    ),
    "one entry written": (
        lambda x, m: torch.cat((x[..., :2], m[0, 0].expand_as(x[..., 2])[..., None], x[..., 3:]), -1),
        one_written,
    ),
    "written in two axes": (
        lambda x, m: torch.cat((torch.cat((x[..., :3], x[..., :5]), -1)[:, None], x[:, None]), 1),
        written_twice,
    ),
    "gate and value": (
        lambda x, m: x[..., :HALF] * x[..., HALF:].sigmoid(),
        lambda x, m: F.glu(x),
        lambda x, m: F.glu(x, dim=2),
    ),
}

ARITHMETIC: dict[str, tuple[Function, ...]] = {
    "logarithm of a sigmoid": (lambda x, m: F.logsigmoid(x), lambda x, m: -F.softplus(-x)),
    "negated": (lambda x, m: -x, lambda x, m: x * -1, lambda x, m: x * -1.0, lambda x, m: torch.negative(x)),
    "subtracted": (
        lambda x, m: m[0] - x,
        lambda x, m: m[0] + -x,
        lambda x, m: -x + m[0],
        lambda x, m: torch.rsub(x, m[0]),
        lambda x, m: m[0] + x * -1,
        lambda x, m: torch.subtract(m[0], x),
    ),
    "root": (lambda x, m: x.abs().sqrt(), lambda x, m: x.abs() ** 0.5, lambda x, m: x.abs().pow(0.5)),
    "times a number": (
        lambda x, m: x * 3.0,
        lambda x, m: x * torch.tensor(3.0),
        lambda x, m: torch.tensor(3.0) * x,
        lambda x, m: torch.multiply(x, 3.0),
    ),
    "over a number": (lambda x, m: x / 8, lambda x, m: x / torch.tensor(8.0), lambda x, m: x.true_divide(8)),
    "sum of products": (
        lambda x, m: x + m[0] * m[1],
        lambda x, m: torch.addcmul(x, m[0], m[1]),
        lambda x, m: torch.addcmul(x, m[0], m[1], value=1.0),
    ),
    "scaled sum of products": (
        lambda x, m: x + m[0] * 0.3 * m[1],
        lambda x, m: torch.addcmul(x, m[0], m[1], value=0.3),
    ),
    "length of vectors": (
        lambda x, m: (x * x).sum(-1, keepdim=True).sqrt(),
        lambda x, m: x.norm(dim=-1, keepdim=True),
        lambda x, m: x.norm(2, -1, True),
        lambda x, m: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        lambda x, m: torch.linalg.norm(x, dim=-1, keepdim=True),
    ),
    "variance": (
        lambda x, m: ((x - x.mean(-1, True)) * (x - x.mean(-1, True))).mean(-1, True),
        lambda x, m: x.var(-1, unbiased=False, keepdim=True),
        lambda x, m: torch.var(x, dim=2, correction=0, keepdim=True),
    ),
    "standard deviation": (
        lambda x, m: (x.var(-1, correction=0, keepdim=True) * (WIDTH / (WIDTH - 1))).sqrt(),
        lambda x, m: x.std(-1, keepdim=True),
        lambda x, m: torch.std(x, (-1,), unbiased=True, keepdim=True),
    ),
    "larger of two": (lambda x, m: torch.maximum(x, m[0]), lambda x, m: torch.max(x, m[0]), lambda x, m: x.max(m[0])),
}

PRODUCTS: dict[str, tuple[Function, ...]] = {
    "scores": (
        lambda x, m: heads(x) @ heads(x).mT,
        lambda x, m: heads(x) @ x.view(1, -1, 2, HALF).permute(0, 2, 3, 1),
        lambda x, m: torch.matmul(heads(x), heads(x).transpose(-1, -2)),
    ),
    "of matrices without a batch": (lambda x, m: x[0] @ x[0].mT, lambda x, m: torch.mm(x[0], x[0].t())),
    "of a weight and columns": (lambda x, m: x @ m.T, lambda x, m: (m @ x.mT).mT),
    "in batches": (lambda x, m: x @ x.mT, lambda x, m: torch.bmm(x, x.mT)),
    "added to": (
        lambda x, m: x[..., :1] + (x @ x.mT) * 0.5,
        lambda x, m: torch.baddbmm(x[..., :1], x, x.mT, alpha=0.5),
    ),
    "softmax": (
        lambda x, m: x.softmax(-1),
        lambda x, m: torch._softmax(x, -1, False),
        lambda x, m: torch.special.softmax(x, 2),
    ),
}

CONDITIONS: dict[str, tuple[Function, ...]] = {
    "a sum weighted with zeros and ones": (
        lambda x, m: torch.where(KEPT[: x.shape[1]] == 0, -5.0, x),
        lambda x, m: blend(x, KEPT[: x.shape[1]]),
        lambda x, m: blend_backwards(x, KEPT[: x.shape[1]]),
    ),
    "a sum weighted with rows of zeros and ones": (
        lambda x, m: torch.where(F.embedding(x.argmax(-1), KEPT) == 0, -5.0, x),
        lambda x, m: blend(x, F.embedding(x.argmax(-1), KEPT)),
    ),
    "a sum weighted with zeros and ones by index": (
        lambda x, m: torch.where(KEPT[x.argmax(-1)] == 0, -5.0, x),
        lambda x, m: blend(x, KEPT[x.argmax(-1)]),
    ),
    "a sum weighted with what is true": (
        lambda x, m: torch.where((x > 0).float() == 0, -5.0, x),
        lambda x, m: blend(x, (x > 0).float()),
    ),
    "filled": (
        lambda x, m: x.masked_fill(x > 0, -1.0),
        lambda x, m: torch.where(x > 0, -1.0, x),
        lambda x, m: torch.where(~(x > 0), x, -1.0),
        lambda x, m: torch.where(torch.logical_not(x > 0), x, torch.tensor(-1.0)),
        lambda x, m: x.masked_fill(x > 0, torch.tensor(-1.0)),
        lambda x, m: torch.where(x > 0, torch.full([], -1.0), x),
        lambda x, m: x.masked_fill(~~(x > 0), -1),
    ),
    "both": (lambda x, m: (x > 0) & (x < 1), lambda x, m: (x > 0).__and__(x < 1)),
}

SOFTMAX: dict[str, tuple[Function, ...]] = {
    "less the largest": (
        lambda x, m: x.softmax(-1),
        lambda x, m: (x - x.max(-1, keepdim=True).values).softmax(-1),
        lambda x, m: (x - x.max(dim=2, keepdim=True)[0]).softmax(2),
        lambda x, m: (x - x.amax(-1, True)).softmax(-1),
        lambda x, m: F.softmax(x - torch.amax(x, dim=(-1,), keepdim=True), dim=-1, dtype=torch.float32),
    ),
    "before other axes merge": (
        lambda x, m: heads(x).softmax(-1).reshape(2, -1, HALF),
        lambda x, m: heads(x).reshape(2, -1, HALF).softmax(-1),
    ),
}
GROUPS = {
    f"{kind}: {name}": ways
    for kind, group in (
        ("shapes", SHAPES),
        ("pairs", PAIRS),
        ("parts", PARTS),
        ("arithmetic", ARITHMETIC),
        ("products", PRODUCTS),
        ("conditions", CONDITIONS),
        ("softmax", SOFTMAX),
    )
    for name, ways in group.items()
}


@pytest.mark.parametrize("name", GROUPS)
def test_variants_become_one(name: str) -> None:
    first, *others = GROUPS[name]
    expected = form(first)
    for other in others:
        assert form(other) == expected


APART: dict[str, tuple[Function, Function]] = {
    "in a row and as a whole": (
        lambda x, m: heads(x).repeat_interleave(3, 1),
        lambda x, m: heads(x).repeat(1, 3, 1, 1),
    ),
    "filled and kept": (lambda x, m: torch.where(x > 0, x, -1.0), lambda x, m: torch.where(x > 0, -1.0, x)),
    "indices out of order": (lambda x, m: x[..., [3, 5, 4]], lambda x, m: x[..., 3:6]),
    "the other of two": (lambda x, m: x.unbind(-1)[0], lambda x, m: x.unbind(-1)[1]),
    "another norm": (lambda x, m: x.norm(1, -1, True), lambda x, m: x.norm(2, -1, True)),
    "less the largest of another": (
        lambda x, m: (x - (2 * x).amax(-1, True)).softmax(-1),
        lambda x, m: x.softmax(-1),
    ),
    "less the largest of another axis": (lambda x, m: (x - x.amax(1, True)).softmax(-1), lambda x, m: x.softmax(-1)),
    "a sum weighted with a half": (
        lambda x, m: blend(x, KEPT[: x.shape[1]] * 0.5),
        lambda x, m: torch.where(KEPT[: x.shape[1]] * 0.5 == 0, -5.0, x),
    ),
    "a sum weighted with a constant of thirds": (
        lambda x, m: blend(x, THIRDS[: x.shape[1]]),
        lambda x, m: torch.where(THIRDS[: x.shape[1]] == 0, -5.0, x),
    ),
    "a sum weighted with the rest of another": (
        lambda x, m: x * KEPT[: x.shape[1]] + -5.0 * (1 - THIRDS[: x.shape[1]]),
        lambda x, m: torch.where(KEPT[: x.shape[1]] == 0, -5.0, x),
    ),
    "an axis that merges": (
        lambda x, m: heads(x).transpose(1, 2).reshape(1, -1, WIDTH).softmax(-1),
        lambda x, m: heads(x).transpose(1, 2).softmax(-1).reshape(1, -1, WIDTH),
    ),
    "less the smallest": (lambda x, m: (x - x.amin(-1, True)).softmax(-1), lambda x, m: x.softmax(-1)),
    "cubed": (lambda x, m: x**3, lambda x, m: x**2),
}


@pytest.mark.parametrize("name", APART)
def test_what_differs_stays_apart(name: str) -> None:
    one, other = APART[name]
    assert form(one) != form(other)


def overlapping(x: Tensor, m: Tensor) -> Tensor:
    whole = x.new_zeros(x.shape)
    whole[..., :5] = x[..., :5]
    whole[..., 3:6] += m[0, :3]
    return whole


def strided(x: Tensor, m: Tensor) -> Tensor:
    whole = torch.zeros_like(x)
    whole[..., ::2] = x[..., :HALF]
    return whole


def along_the_sequence(x: Tensor, m: Tensor) -> Tensor:
    whole = torch.zeros_like(x)
    whole[:, 1:] = x[:, :-1]
    return whole


WRITES = {"overlapping": overlapping, "strided": strided, "along the sequence": along_the_sequence}


@pytest.mark.parametrize("name", WRITES)
def test_any_other_write_keeps_its_numbers(name: str) -> None:
    assert operations(WRITES[name])


def test_what_is_written_along_the_sequence_is_no_concatenation() -> None:
    assert aten.slice_scatter.default in operations(along_the_sequence)


def test_constant_indices_that_are_no_slice_select() -> None:
    assert aten.index_select.default in operations(lambda x, m: x[..., [3, 5, 4]])


def test_constant_indices_that_go_round_once_roll() -> None:
    turned = operations(lambda x, m: x[..., [*range(HALF, 2 * HALF), *range(HALF)]])
    assert aten.roll.default in turned and aten.index_select.default not in turned


MOVING = torch.diag(torch.full((HALF,), 2.0), HALF) - torch.diag(torch.ones(HALF), -HALF)


def test_a_product_with_a_matrix_that_moves_entries_moves_them() -> None:
    moved = operations(lambda x, m: x @ MOVING)
    assert {aten.roll.default, aten.mul.Tensor} <= set(moved) and aten.linear.default not in moved


@pytest.mark.parametrize("more", [torch.zeros(2 * HALF), torch.ones(2 * HALF)], ids=["fewer", "more"])
def test_a_matrix_of_which_a_row_has_another_number_of_entries_stays_a_product(more: torch.Tensor) -> None:
    matrix = MOVING.clone()
    matrix[:, 1] = more
    assert aten.linear.default in operations(lambda x, m: x @ matrix)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: torch.diff(x, dim=-1),
        lambda x, m: x.std(-1),
        lambda x, m: F.cosine_similarity(x, m[0], dim=-1),
        lambda x, m: torch.addcdiv(x, m[0], m[1].abs() + 1, value=2.0),
        lambda x, m: 1 - x,
        lambda x, m: torch.where(x > 0, 1.0, 0.0),
    ],
)
def test_composites_are_decomposed(function: Function) -> None:
    """Only what building blocks are written in is left of the operations that PyTorch composes."""
    kept = {aten.reshape.default, aten.matmul.default, aten.linear.default, aten.sym_size.int}
    for operation in operations(function):
        assert operation in kept or not operation.has_kernel_for_dispatch_key(
            torch._C.DispatchKey.CompositeImplicitAutograd
        )


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: F.group_norm(x.flatten(0, 1), 2, m[0], m[1], eps=1e-4).view_as(x),
        lambda x, m: F.group_norm(x[0], 4),
    ],
)
def test_groups_of_a_row_are_normed_as_rows(function: Function) -> None:
    """So that no number of rows is told to an operation."""
    made = operations(function)
    assert aten.layer_norm.default in made
    assert not {aten.group_norm.default, aten.native_group_norm.default} & set(made)
