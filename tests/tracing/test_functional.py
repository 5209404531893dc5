"""What is traced is one graph that writes nothing, whatever contexts and writes the model's code has."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from autoconvert.tracing.exported import export


class Model(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * 2


def with_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        table = x.cos()
    return table + x


def with_grad_inside_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        first = x.sin()
        with torch.enable_grad():
            second = first + x
    return second


def with_autocast_off(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return x.float().exp()


def with_writes(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 3.0
    return y.add_(1.0)


@pytest.mark.parametrize(
    "function",
    [with_no_grad, with_grad_inside_no_grad, with_autocast_off, with_writes],
    ids=lambda function: function.__name__,
)
def test_a_traced_graph_is_functional_and_gives_the_numbers(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 5)
    exported = export(Model(function), (x,))
    calls = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert all(isinstance(call, OpOverload) and not call._schema.is_mutable for call in calls)
    torch.testing.assert_close(exported.module()(x), Model(function)(x))
