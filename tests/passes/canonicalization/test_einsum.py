"""Einstein sums are products of matrices with the axes in order, whatever the letters."""

import pytest
import torch

from tests.passes.forms import WIDTH, Function, canonicalized, form, operations

aten = torch.ops.aten


def heads(x: torch.Tensor) -> torch.Tensor:
    """[1, s, 2, 4]"""
    return x.view(1, -1, 2, 4)


def scores(x: torch.Tensor) -> torch.Tensor:
    """[1, 2, s, s]"""
    return heads(x).transpose(1, 2) @ heads(x).transpose(1, 2).mT


SAME: dict[str, tuple[Function, Function]] = {
    "linear": (lambda x, m: torch.einsum("bsd,od->bso", x, m), lambda x, m: x @ m.mT),
    "linear with the matrix as it is": (lambda x, m: torch.einsum("b s d, d o -> b s o", x, m), lambda x, m: x @ m),
    "linear without an arrow": (lambda x, m: torch.einsum("abz,zc", x, m), lambda x, m: x @ m),
    "linear of all axes in front": (lambda x, m: torch.einsum("...d,od->...o", x, m), lambda x, m: x @ m.mT),
    "several axes summed": (
        lambda x, m: torch.einsum("bshd,ohd->bso", heads(x), m.view(WIDTH, 2, 4)),
        lambda x, m: heads(x).flatten(2) @ m.view(WIDTH, 2, 4).permute(1, 2, 0).flatten(0, 1),
    ),
    "several axes made": (
        lambda x, m: torch.einsum("bsd,dhw->bshw", x, m.view(WIDTH, 2, 4)),
        lambda x, m: (x @ m).view(1, -1, 2, 4),
    ),
    "scores of heads": (
        lambda x, m: torch.einsum("bhqd,bhkd->bhqk", heads(x).transpose(1, 2), heads(x @ m).transpose(1, 2)),
        lambda x, m: heads(x).transpose(1, 2) @ heads(x @ m).transpose(1, 2).mT,
    ),
    "scores before the transpose": (
        lambda x, m: torch.einsum("bqhd,bkhd->bhqk", heads(x), heads(x @ m)),
        lambda x, m: heads(x).transpose(1, 2) @ heads(x @ m).transpose(1, 2).mT,
    ),
    "values before the transpose": (
        lambda x, m: torch.einsum("bhqk,bkhd->bqhd", scores(x), heads(x)),
        lambda x, m: (scores(x) @ heads(x).transpose(1, 2)).transpose(1, 2),
    ),
    "one key head for several query heads": (
        lambda x, m: torch.einsum("bqhd,bkd->bhqk", heads(x), x[..., :4]),
        lambda x, m: heads(x).transpose(1, 2) @ x[..., :4].unsqueeze(1).mT,
    ),
    "groups of heads": (
        lambda x, m: torch.einsum("bqghd,bkgd->bghqk", x.view(1, -1, 2, 2, 2), x[..., :4].reshape(1, -1, 2, 2)),
        lambda x, m: (
            x.view(1, -1, 2, 2, 2).permute(0, 2, 3, 1, 4)
            @ x[..., :4].reshape(1, -1, 2, 2).transpose(1, 2).unsqueeze(2).mT
        ),
    ),
    "products without a sum": (lambda x, m: torch.einsum("bsd,d->bsd", x, m[0]), lambda x, m: x * m[0]),
    "outer product": (
        lambda x, m: torch.einsum("bs,d->bsd", x[..., 0], m[0]),
        lambda x, m: x[..., 0].unsqueeze(-1) * m[0],
    ),
    "inner product": (
        lambda x, m: torch.einsum("bsd,d->bs", x, m[0]),
        lambda x, m: (x @ m[0].unsqueeze(-1)).squeeze(-1),
    ),
    "an axis of one operand summed": (
        lambda x, m: torch.einsum("bsd,oe->bso", x, m),
        lambda x, m: x.sum(-1).unsqueeze(-1) * m.sum(-1),
    ),
    "one operand, transposed": (lambda x, m: torch.einsum("bsd->bds", x), lambda x, m: x.mT),
    "one operand, summed": (lambda x, m: torch.einsum("bsd->bs", x), lambda x, m: x.sum(-1)),
    "three operands": (lambda x, m: torch.einsum("bsd,de,ef->bsf", x, m, m), lambda x, m: x @ m @ m),
    "three operands, weighted": (
        lambda x, m: torch.einsum("bsd,de,bs->bse", x, m, x[..., 0]),
        lambda x, m: x @ m * x[..., 0].unsqueeze(-1),
    ),
    "products of rows": (
        lambda x, m: torch.einsum("bsd,bsd->bs", x, x @ m),
        lambda x, m: (x.unsqueeze(-2) @ (x @ m).unsqueeze(-1)).squeeze(-2).squeeze(-1),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_sum_is_the_product_it_stands_for(name: str) -> None:
    written, product = SAME[name]
    assert form(written) == form(product)


OTHERS: dict[str, Function] = {
    "a diagonal": lambda x, m: torch.einsum("bsd,dd->bsd", x, m),
    "a size of one under a letter": lambda x, m: torch.einsum("bsd,bsd->bs", x, x[..., :1]),
    "several axes that only one operand has": lambda x, m: torch.einsum("bshw,bsd->bhwd", heads(x), x),
    "letters of three operands in another order": lambda x, m: torch.einsum("bshw,dw,bsd->hbs", heads(x), m[:, :4], x),
    "an ellipsis without an arrow": lambda x, m: torch.einsum("...d,de", x, m),
    "an ellipsis of different ranks": lambda x, m: torch.einsum("...sd,d->...s", heads(x), m[0, :4]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_sum_is_products_with_its_numbers(name: str) -> None:
    assert aten.einsum.default not in operations(OTHERS[name])


def test_no_axis_of_one_operand_is_merged_with_the_sequence() -> None:
    graph, _ = canonicalized(
        lambda x, m: torch.einsum("bqghd,bkgd->bghqk", x.view(1, -1, 2, 2, 2), x[..., :4].reshape(1, -1, 2, 2))
    )
    (product,) = graph.graph.find_nodes(op="call_function", target=aten.matmul.default)
    assert [isinstance(size, torch.SymInt) for size in product.args[0].meta["val"].shape] == [False] * 3 + [True, False]
