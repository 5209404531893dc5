"""What is known of sizes that tokens decide: how many entries a mask may have, and that pieces make up their axis."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from autoconvert.errors import Inseparable
from autoconvert.tracing.exported import export
from autoconvert.tracing.token_sizes import bounds, known_sums, with_sums
from tests import models
from tests.passes.test_loops_to_pairs import Mixture, mixture

aten = torch.ops.aten
LONGEST = 64


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(function: Callable[[Tensor], Tensor]) -> fx.Graph:
    """The graph of a function of numbers [s, 3]."""
    x = torch.arange(15).reshape(5, 3)
    return export(Function(function), (x,), ({0: Dim("s", min=2, max=LONGEST)},)).graph


@pytest.mark.parametrize(
    ("function", "entries"),
    [
        (lambda x: x[x[:, 0] > 3], LONGEST),
        (lambda x: x[x > 3], 3 * LONGEST),
        (lambda x: (x > 3).nonzero(), 3 * LONGEST),
        (lambda x: torch.where(x > 3)[0], 3 * LONGEST),
        (lambda x: x.T[:, x[:, 0] > 3], LONGEST),
    ],
    ids=["rows", "entries", "nonzero", "where", "columns"],
)
def test_true_entries_are_no_more_than_the_mask_has(function: Callable[[Tensor], Tensor], entries: int) -> None:
    (limits,) = bounds(traced(function), LONGEST).values()
    assert (limits.lower, limits.upper) == (0, entries)


def cut(x: Tensor) -> Tensor:
    sizes: list[Any] = [(x[:, 0] > 3).sum().item(), (x[:, 0] <= 3).sum().item()]
    return torch.cat([piece * 2 for piece in torch.split(x, sizes)])


def test_pieces_make_up_their_axis() -> None:
    graph = traced(cut)
    ((last, rest),) = known_sums(graph).items()
    (first,) = rest.free_symbols & bounds(graph, LONGEST).keys()
    (length,) = rest.free_symbols - {first}
    assert rest == length - first
    assert with_sums(first + last, {last: rest}) == length
    assert {int(limits.upper) for limits in bounds(graph, LONGEST).values()} == {LONGEST}


def test_other_assertions_about_them_are_refused() -> None:
    def at_most_two(m: Mixture, x: Tensor) -> Tensor:
        mask = m.router(x)[:, 0] > 0
        rows = x[mask]
        torch._check(rows.shape[0] <= 2)  # type: ignore[no-untyped-call]
        return x.masked_scatter(mask[:, None], rows)

    with pytest.raises(Inseparable, match=r"depends on the values of its tokens \(u0 <= 2\)"):
        models.traced(mixture(at_most_two))
