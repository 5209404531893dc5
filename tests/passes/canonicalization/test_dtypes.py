"""Canonical forms give the numbers and the type of what they stand for, whatever the type and rank of the operands."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import traced
from autoconvert.passes.canonicalize import canonicalize

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all axes reversed": lambda x, y: x.T,
    "last axes exchanged": lambda x, y: x.mT,
    "of a vector": lambda x, y: x[0, 0].T,
    "sum with a factor": lambda x, y: torch.add(x, y, alpha=3),
    "difference with a factor": lambda x, y: torch.sub(x, y, alpha=2),
    "sum with a number and a factor": lambda x, y: torch.add(x, 2, alpha=3),
    "number less": lambda x, y: torch.rsub(x, 2, alpha=3),
    "sum with zero": lambda x, y: x + 0,
    "sum with zero point zero": lambda x, y: x + 0.0,
    "times one": lambda x, y: x * 1,
    "times true": lambda x, y: x * True,
    "times minus one": lambda x, y: x * -1,
    "divided": lambda x, y: x / 4,
    "divided by one": lambda x, y: x / 1,
    "floor of quotient": lambda x, y: torch.div(x, 3, rounding_mode="floor"),
    "quotient toward zero": lambda x, y: torch.div(x, 3, rounding_mode="trunc"),
    "quotient by root": lambda x, y: y / (x.abs() + 1).sqrt(),
    "square": lambda x, y: x.square(),
    "power of two": lambda x, y: x**2,
    "power of two point zero": lambda x, y: x**2.0,
    "power of one": lambda x, y: x**1,
    "inverse root": lambda x, y: (x.abs() + 1) ** -0.5,
    "inverse of root": lambda x, y: 1 / (x.abs() + 1).sqrt(),
    "sum with the negative": lambda x, y: x + (-y),
    "filled": lambda x, y: x.masked_fill(y == y, 1),
    "choice of a number": lambda x, y: torch.where(y == y, x, 2),
    "constant": lambda x, y: x * torch.tensor(3),
    "constant point five": lambda x, y: x * torch.tensor(0.5),
    "constant of more digits": lambda x, y: x + torch.tensor(0.1, dtype=torch.float64),
    "joined": lambda x, y: torch.cat([x, y[:, :0], y], 1),
    "joined with another type": lambda x, y: torch.cat([x, y[:, :0].double()], 1),
    "copied": lambda x, y: torch.ops.aten.copy(x, y.abs()),
    "repeated": lambda x, y: x.repeat(2, 1, 3, 1).repeat_interleave(2, 1),
    "sum over an axis": lambda x, y: x.sum(1, keepdim=True),
    "mean in a type": lambda x, y: x.mean(-1, dtype=torch.float32),
    "norm": lambda x, y: torch.linalg.vector_norm(x, dim=-1),
    "norm with axis": lambda x, y: torch.linalg.vector_norm(x, dim=(0, -1), keepdim=True),
    "variance": lambda x, y: x.var(1, correction=0, keepdim=True),
    "not": lambda x, y: ~x,
    "not not": lambda x, y: x.logical_not().logical_not(),
    "cast there and back": lambda x, y: x.to(torch.int64).to(x.dtype),
    "softmax": lambda x, y: torch.softmax(x - x.amax(-1, keepdim=True), -1),
    "product": lambda x, y: torch.einsum("abc,abd->acd", x, y),
    "sum of products": lambda x, y: torch.baddbmm(x.mT @ y, x.mT, y, beta=2, alpha=3),
    "signed zeros": lambda x, y: torch.copysign(x + 9, torch.full_like(x, -0.0)) + torch.full_like(x, 0.0),
    "written entry": lambda x, y: torch.select_scatter(x, y[0], 0, -1),
}
DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_and_type_stay(name: str, dtype: torch.dtype) -> None:
    function, generator = FUNCTIONS[name], torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, 4, (2, 3, 4), generator=generator).to(dtype) for _ in range(2))
    try:
        expected = function(x, y)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            values = {"x": mode.from_tensor(x), "y": mode.from_tensor(y)}
        graph = traced(lambda x, y: {"result": function(x, y)}, values)
    except (RuntimeError, TypeError, NotImplementedError):
        return  # PyTorch has no such operation for the type.
    canonicalize(graph)
    actual = graph(x, y)["result"]
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
