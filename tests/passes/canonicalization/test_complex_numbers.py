"""Complex arithmetic becomes real arithmetic with the same numbers."""

import pytest
import torch
from torch import Tensor, fx

from tests.passes.forms import WIDTH, Function, canonicalized, form

HALF = WIDTH // 2


def is_complex(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


def paired(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


def heads(x: Tensor) -> Tensor:
    """[1, s, 2, 4]"""
    return x.view(1, -1, 2, HALF)


def angles(x: Tensor) -> Tensor:
    """[s, 4]"""
    return torch.outer(torch.arange(x.shape[1]).float(), torch.tensor([1.0, 0.5, 0.25, 0.125]))


TABLE = torch.polar(torch.ones(64, HALF), torch.outer(torch.arange(64).float(), torch.tensor([1.0, 0.5, 0.25, 0.125])))

WAYS: dict[str, Function] = {
    "polar": lambda x, m: torch.view_as_real(
        paired(x) * torch.polar(torch.ones_like(angles(x)), angles(x))[None]
    ).flatten(-2),
    "power of e": lambda x, m: torch.view_as_real(paired(x) * torch.exp(1j * angles(x))).flatten(2),
    "table of the module": lambda x, m: torch.view_as_real(paired(x) * TABLE[: x.shape[1]].unsqueeze(0)).flatten(-2),
    "looked up by position": lambda x, m: torch.view_as_real(
        paired(x) * TABLE[torch.arange(x.shape[1])].view(1, -1, HALF)
    ).flatten(-2),
    "two parts": lambda x, m: torch.stack(
        ((paired(x) * torch.complex(angles(x).cos(), angles(x).sin())).real, (paired(x) * TABLE[: x.shape[1]]).imag), -1
    ).flatten(-2),
    "conjugated": lambda x, m: torch.view_as_real(paired(x) * TABLE[: x.shape[1]].conj()).flatten(-2),
    "scaled": lambda x, m: torch.view_as_real(2.0 * paired(x) * x[..., :1] + paired(x @ m)).flatten(-2),
    "moved": lambda x, m: torch.view_as_real(
        torch.cat((paired(heads(x)).transpose(1, 2), -paired(heads(x)).permute(0, 2, 1, 3)), 1)
    ).flatten(-2),
}


@pytest.mark.parametrize("name", WAYS)
def test_no_complex_value_is_left_and_the_numbers_stay(name: str) -> None:
    assert not any(map(is_complex, canonicalized(WAYS[name])[0].graph.nodes))


def test_a_complex_product_is_the_rotation_that_it_is() -> None:
    def rotated(x: Tensor, m: Tensor) -> Tensor:
        pairs = x.reshape(1, x.shape[1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        cos, sin = angles(x).cos(), angles(x).sin()
        return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2)

    def multiplied(x: Tensor, m: Tensor) -> Tensor:
        return torch.view_as_real(paired(x) * torch.complex(angles(x).cos(), angles(x).sin())).flatten(-2)

    assert form(multiplied) == form(rotated)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, m: paired(x).abs(),
        lambda x, m: torch.view_as_real(paired(x) + 1.0).flatten(-2),
        lambda x, m: torch.view_as_real(paired(x).reciprocal()).flatten(-2),
    ],
)
def test_what_is_not_known_stays_complex_and_right(function: Function) -> None:
    assert any(map(is_complex, canonicalized(function)[0].graph.nodes))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_what_is_real_is_added_to_the_real_part_alone_or_left(dtype: torch.dtype) -> None:
    def summed(x: Tensor, m: Tensor) -> Tensor:
        return torch.view_as_real(paired(x) + (x[..., ::2] > 0).to(dtype)).flatten(2)

    canonicalized(summed)
