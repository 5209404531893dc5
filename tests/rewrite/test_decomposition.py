"""Bodies take the place of operations, one body for each distinct call."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import traced
from autoconvert.ir.graph_module import graph_module
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.decomposition import decompose_nodes

aten = torch.ops.aten


def topk(self: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(self, dim, descending=largest)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


def test_one_value_of_two_parameters_makes_two_bodies() -> None:
    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.topk(x, 2, largest=False)[0], torch.topk(y, 2, sorted=False)[0]

    with FakeTensorMode():
        fakes = {"x": torch.empty(5), "y": torch.empty(5)}
    graph = canonicalize(traced(both, fakes))
    assert decompose_nodes(graph.graph, {aten.topk.default: topk}) == 2
    graph = graph_module(graph, graph.graph)
    graph.recompile()
    x = torch.tensor([3.0, 1.0, 4.0, 1.5, 5.0])
    least, most = graph(x, x)
    assert least.tolist() == [1.0, 1.5]
    assert most.tolist() == [5.0, 4.0]
