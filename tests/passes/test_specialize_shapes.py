"""One chunk length: numbers for shapes, only states from a prefill, one row of logits from decode."""

import pytest
import torch
from torch import Tensor, fx

from autoconvert.ir.nodes import named_results
from autoconvert.ir.program import Program
from autoconvert.runtime.chunks import chunk
from tests import models
from tests.models import CONTEXT, Decoder, signatures, tiny_llama


def symbolic(graph: fx.GraphModule) -> list[str]:
    """Nodes that still say a size that is not a number."""

    def is_symbolic(value: object) -> bool:
        sizes = value.shape if isinstance(value, Tensor) else [value]
        return any(isinstance(size, torch.SymInt) for size in sizes)

    return [node.name for node in graph.graph.nodes if is_symbolic(node.meta.get("val"))]


def prefill(program: Program, length: int) -> Program:
    return signatures(program, (length,))[f"prefill_{length}"]


def decode(program: Program) -> Program:
    return signatures(program, (1,))["decode"]


@pytest.fixture(scope="module")
def llama() -> Program:
    return models.rewrite(tiny_llama())


@pytest.mark.parametrize("length", [1, 2, 7, CONTEXT])
def test_every_shape_is_a_number(llama: Program, length: int) -> None:
    assert symbolic(llama.graph)
    special = prefill(llama, length)
    assert not symbolic(special.graph)
    inputs = {str(n.target): tuple(n.meta["val"].shape) for n in special.graph.graph.find_nodes(op="placeholder")}
    assert inputs["tokens"] == (1, length)
    assert inputs["input_pos"] == (length,)
    assert inputs["mask"] == (1, 1, length, CONTEXT)
    assert all(inputs[port.name] == port.shape for port in special.ports if port.name in inputs)


def test_prefill_gives_only_the_states(llama: Program) -> None:
    special = prefill(llama, 5)
    assert list(named_results(special.graph.graph)) == [state.name for state in llama.states]
    assert special.outputs == ()


def test_prefill_needs_no_head(llama: Program) -> None:
    inputs = {str(node.target) for node in prefill(llama, 5).graph.graph.find_nodes(op="placeholder") if node.users}
    assert "lm_head_weight" not in inputs


def test_decode_gives_one_row_of_logits_and_the_states(llama: Program) -> None:
    results = named_results(decode(llama).graph.graph)
    shapes = {name: tuple(node.meta["val"].shape) for name, node in results.items()}
    assert shapes == {"logits": (1, 1, 97)} | {state.name: state.shape for state in llama.states}


def test_signatures_are_named_as_the_runtime_looks_for_them(llama: Program) -> None:
    assert list(signatures(llama, (8, 2))) == ["prefill_8", "prefill_2", "decode"]


def test_it_leaves_the_program_as_it_was(llama: Program) -> None:
    before = str(llama.graph.graph)
    decode(llama)
    prefill(llama, 3)
    assert str(llama.graph.graph) == before


def test_prefill_then_decode_gives_the_logits_of_one_run() -> None:
    module = Decoder()
    program = models.rewrite(module)
    tokens = models.random_ids(9)
    states = {name: torch.zeros(tuple(node.meta["val"].shape)) for name, node in program.state_nodes().items()}
    for part, start, stop, size in (
        (prefill(program, 6), 0, 5, 6),
        (prefill(program, 3), 5, 8, 3),
        (decode(program), 8, 9, 1),
    ):
        call = chunk(tokens[start:stop], start, size, CONTEXT)
        weights = models.weights_of(module)
        values = {name: weight.evaluate(weights.read) for name, weight in program.weights.items()} | states
        values |= {port.name: call.inputs[port.role] for port in part.inputs}
        names = [str(node.target) for node in part.graph.graph.find_nodes(op="placeholder")]
        with torch.no_grad():
            results = part.graph(*(values[name] for name in names))
        states = {name: results[name] for name in states}
    models.assert_same(results["logits"][0], models.logits_of_source(module, tokens)[-1:])
