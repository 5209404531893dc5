"""What is decomposed computes the same, comes from where its operation came from, and is traced once for all alike."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import traced
from autoconvert.lowering import run_decompositions as module
from autoconvert.lowering.run_decompositions import Definitions, run_decompositions

aten = torch.ops.aten
DEFINITIONS: Definitions = torch._decomp.core_aten_decompositions()
X, WEIGHT = torch.randn(2, 5, 8), torch.randn(8, 8)


def layers(x: Tensor, weight: Tensor) -> Tensor:
    for _ in range(3):
        x = F.linear(F.silu(x), weight).transpose(1, 2).softmax(-1).transpose(1, 2)
    first, second = torch.split(x, [3, 5], dim=-1)
    return torch.cat([second, first + torch.ones(3)], -1)


def graph_of_layers() -> fx.GraphModule:
    mode = FakeTensorMode()
    values = {"x": mode.from_tensor(X), "weight": mode.from_tensor(WEIGHT)}
    return traced(layers, values)


def test_it_computes_the_same() -> None:
    graph = graph_of_layers()
    run_decompositions(graph.graph, DEFINITIONS)
    graph.graph.lint()
    # On the device nothing has strides, and each view is a reshape.
    for view in graph.graph.find_nodes(op="call_function", target=aten.view.default):
        view.target = aten.reshape.default
    graph.recompile()
    assert torch.allclose(graph(X, WEIGHT), layers(X, WEIGHT), atol=1e-6)


def test_nothing_is_left_that_is_defined_or_composed() -> None:
    graph = graph_of_layers()
    run_decompositions(graph.graph, DEFINITIONS)
    left = Counter(node.target for node in graph.graph.nodes if node.op == "call_function")
    assert not left.keys() & DEFINITIONS.keys()
    assert left[aten.mm.default] == left[aten._softmax.default] == 3
    assert aten.linear.default not in left


def test_equal_operations_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    original = module._traced

    def counted(node: fx.Node, *rest: object) -> fx.Graph:
        seen.append(node.target)
        return original(node, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_traced", counted)
    run_decompositions(graph_of_layers().graph, DEFINITIONS)
    assert Counter(seen)[aten.linear.default] == Counter(seen)[aten.silu.default] == 1


def test_calls_that_differ_in_a_number_are_told_apart() -> None:
    graph = traced(lambda x: x.softmax(-1) + x.softmax(-2), {"x": FakeTensorMode().from_tensor(X)})
    run_decompositions(graph.graph, DEFINITIONS)
    graph.recompile()
    assert torch.allclose(graph(X), X.softmax(-1) + X.softmax(-2))


def test_a_python_function_is_decomposed_each_time() -> None:
    calls: list[int] = []

    def numbered(x: Tensor) -> Tensor:
        calls.append(len(calls))
        return x + len(calls)

    graph = traced(lambda x: x * 2, {"x": FakeTensorMode().from_tensor(X)})
    (output,) = graph.graph.output_node().all_input_nodes
    with graph.graph.inserting_after(output):
        first = graph.graph.call_function(numbered, (output,))
        first.meta = dict(output.meta)
    with graph.graph.inserting_after(first):
        second = graph.graph.call_function(numbered, (first,))
        second.meta = dict(output.meta)
    graph.graph.output_node().args = (second,)
    run_decompositions(graph.graph, DEFINITIONS)
    graph.recompile()
    assert len(calls) == 2 and torch.equal(graph(X), X * 2 + 1 + 2)


def test_what_is_decomposed_keeps_where_it_came_from() -> None:
    graph = graph_of_layers()
    for node in graph.graph.find_nodes(op="call_function", target=aten.linear.default):
        node.meta["stack_trace"] = "here"
    run_decompositions(graph.graph, DEFINITIONS)
    products = graph.graph.find_nodes(op="call_function", target=aten.mm.default)
    assert {node.meta.get("stack_trace") for node in products} == {"here"}


def test_how_an_operand_lies_in_memory_decides_nothing() -> None:
    mode = FakeTensorMode()
    values = {"x": mode.from_tensor(torch.randn(1, 4, 1, 2)), "weight": mode.from_tensor(WEIGHT)}
    # In one row of positions ATen takes the heads for a batch, unless they lie side by side.
    graph = traced(lambda x, weight: F.linear(x.transpose(1, 2).reshape(1, 1, 8), weight), values)
    run_decompositions(graph.graph, DEFINITIONS)
    assert not graph.graph.find_nodes(op="call_function", target=aten.bmm.default)
    assert len(graph.graph.find_nodes(op="call_function", target=aten.mm.default)) == 1
