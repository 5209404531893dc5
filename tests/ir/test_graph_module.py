"""A graph module writes its code when it is called; so does what PyTorch traces meanwhile."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import fx

from autoconvert.ir.graph_module import code_when_called, graph_module
from autoconvert.tracing.trace import trace
from tests.source.tiny import build, llama


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[fx.Graph]]:
    """The graphs whose code was written."""
    graphs: list[fx.Graph] = []
    write = fx.Graph.python_code

    def noted(graph: fx.Graph, *args: object, **kwargs: object) -> object:
        graphs.append(graph)
        return write(graph, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(fx.Graph, "python_code", noted)
    yield graphs


def test_code_is_that_of_the_graph_at_the_time_of_the_call(written: list[fx.Graph]) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    result = graph.call_function(torch.neg, (x,))
    graph.output(result)
    module = graph_module({}, graph)
    module.recompile()
    assert not written
    assert module(torch.ones(2)).tolist() == [-1, -1]
    result.target = torch.exp
    module.recompile()
    assert module(torch.zeros(2)).tolist() == [1, 1]
    assert len(written) == 2


@pytest.mark.parametrize("later", [False, True])
def test_tracing_writes_code_only_where_torch_export_cannot_do_without(later: bool, written: list[fx.Graph]) -> None:
    with code_when_called() if later else nullcontext():
        program = trace(build(llama()), 16)
    assert (len(written) <= 3) == later
    module = build(llama())
    parameters = dict(module.named_parameters())
    weights = [parameters[weight.sources[0]].detach() for weight in program.weights.values()]
    tokens, positions = torch.tensor([[3, 1, 4]]), torch.arange(3)[None]
    logits = program.graph(tokens, positions, *weights)["logits"]
    torch.testing.assert_close(logits, module(tokens, use_cache=False).logits, atol=1e-5, rtol=0)
