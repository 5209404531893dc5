"""A model's programs share weights by name, which only equal ones may."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoconvert.errors import AutoconvertError
from autoconvert.ir.interface import Port, Role
from autoconvert.ir.model import Model
from autoconvert.ir.program import Program
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.fold_weights import fold_weights
from autoconvert.tracing.module import trace_module

HIDDEN = Port("hidden", Role.HIDDEN, torch.float32, (1, "length", 4))


class Scales(nn.Module):
    def __init__(self, scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self._scale(self.weight)


def program(scale: Callable[[Tensor], Tensor]) -> Program:
    traced = trace_module(Scales(scale), (HIDDEN,), [("out", Role.HIDDEN)], {"length": 16})
    return fold_weights(traced.with_graph(canonicalize(traced.graph, traced.weights)))


def test_programs_that_compute_one_weight_of_one_tensor_share_it() -> None:
    model = Model({"a": program(lambda w: w * 2), "b": program(lambda w: w * 2)}, ())
    assert len(model.weights) == 1


def test_two_weights_of_one_tensor_under_one_name_are_refused() -> None:
    model = Model({"a": program(lambda w: w * 2), "b": program(lambda w: w * 3)}, ())
    with pytest.raises(AutoconvertError, match="program b has another weight"):
        assert model.weights
