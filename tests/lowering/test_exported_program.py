import pytest
import torch
from torch import Tensor, fx

from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.exported_program import exported_program
from autoconvert.lowering.legalize import legalize
from autoconvert.lowering.litert import quiet
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, run_passes
from autoconvert.tracing.trace import trace
from tests.models import signatures
from tests.plain_llama import PlainLlama


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    program = run_passes(trace(PlainLlama().eval(), 24), Options(24, PATTERNS, lambda *_: None, CPU), PASSES)
    with quiet():
        return legalize(signatures(program, (6,))["prefill_6"].graph, CPU)


def _inputs(graph: fx.GraphModule) -> dict[str, Tensor]:
    return {str(node.target): node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")}


def _targets(graph: fx.Graph) -> list[object]:
    return [node.target for node in graph.nodes if node.op == "call_function"]


def test_it_has_the_operations_and_the_signature_that_an_export_has(graph: fx.GraphModule) -> None:
    inputs = _inputs(graph)
    ours, theirs = exported_program(graph, inputs), torch.export.export(graph, (), inputs, strict=False)
    assert _targets(ours.graph) == _targets(theirs.graph)
    kinds, expected = ([spec.kind for spec in e.graph_signature.input_specs] for e in (ours, theirs))
    assert kinds == expected
    assert list(ours.state_dict) == list(theirs.state_dict) != []
    assert ours.call_spec.in_spec == theirs.call_spec.in_spec
    assert ours.call_spec.out_spec is not None
    assert ours.call_spec.out_spec.context == list(graph.graph.output_node().args[0])  # type: ignore[arg-type]


def test_it_gives_the_numbers_of_the_graph_by_the_graph_s_names(graph: fx.GraphModule) -> None:
    fakes = _inputs(graph)
    inputs = {
        name: torch.rand(fake.shape) if fake.is_floating_point() else torch.ones(fake.shape, dtype=fake.dtype)
        for name, fake in fakes.items()
    }
    expected, actual = graph(**inputs), exported_program(graph, fakes).module()(**inputs)
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_graph_that_was_given_stays_as_it_is(graph: fx.GraphModule) -> None:
    before = str(graph.graph)
    exported_program(graph, _inputs(graph))
    assert str(graph.graph) == before
