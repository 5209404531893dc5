"""The device computes constants less, and divided by, what is transposed: the converter would exchange them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.lowering.on_device import lowered, results, run

COLUMN = torch.tensor([[1.0], [2.0], [3.0]])
USES: dict[str, Callable[[Tensor], Tensor]] = {
    "a number less": lambda x: 1.5 - x,
    "a constant less": lambda x: COLUMN - x,
    "less in the middle": lambda x: (1 - (x + 1).sigmoid()) * x,
    "of whole numbers": lambda x: -1 - x.to(torch.int64),
    "with a factor": lambda x: torch.sub(COLUMN, x, alpha=3),
    "the inverse": lambda x: torch.reciprocal(x + 1),
    "a number by it": lambda x: 3 / (x + 1),
    "a constant by it": lambda x: COLUMN / (x + 1),
    "transposed back": lambda x: (2 - x).transpose(0, 1),
}


@pytest.mark.parametrize("name", USES)
def test_it_is_what_pytorch_gives(name: str) -> None:
    def function(x: Tensor) -> Tensor:
        return USES[name](x.transpose(0, 1))

    x = torch.tensor([[3.0, 7, 1], [0, 5, 9]])
    (actual,), (expected,) = run(lowered(function, x), x), results(function, x)
    torch.testing.assert_close(actual.to(expected.dtype), expected)


def test_more_axes_are_permuted() -> None:
    def function(x: Tensor) -> Tensor:
        return 1 - x.permute(0, 2, 3, 1)

    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(run(lowered(function, x), x)[0], function(x))
