"""A graph without symbols lowers to operations that the device has, under the names that it had."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.ir.editing import traced
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import operator_name, read_model
from autoconvert.lowering.legalize import legalize
from autoconvert.lowering.litert import lower
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, run_passes
from autoconvert.tracing.trace import trace
from tests.models import rewrite, signatures, tiny_llama
from tests.plain_llama import PlainLlama


@cache
def parts() -> dict[str, Program]:
    torch.manual_seed(0)
    program = trace(PlainLlama().eval(), 24)
    program = run_passes(program, Options(24, PATTERNS, lambda *_: None, CPU), PASSES)
    return signatures(program, (6,))


@cache
def lowered(name: str) -> bytes:
    return lower(name, parts()[name], CPU)


def operations(content: bytes) -> Counter[str]:
    model = read_model(content)
    subgraph = model.subgraphs[model.signatureDefs[0].subgraphIndex]
    return Counter(operator_name(model, operator) for operator in subgraph.operators)


@pytest.mark.parametrize("name", ["prefill_6", "decode"])
def test_inputs_and_outputs_keep_their_names(name: str) -> None:
    signature = read_model(lowered(name)).signatureDefs[0]
    inputs = {entry.name.decode() for entry in signature.inputs}
    outputs = {entry.name.decode() for entry in signature.outputs}
    caches = {f"kv_cache_{kind}_{layer}" for kind in "kv" for layer in (0, 1)}
    assert inputs - set(parts()[name].weights) == {"tokens", "input_pos", "mask"} | caches
    assert outputs == caches | ({"logits"} if name == "decode" else set())


def test_decode_has_the_operations_of_the_device_and_copies_no_cache() -> None:
    found = operations(lowered("decode"))
    # Per layer: q, kv, o, gate, up, down; and the head.
    assert found["FULLY_CONNECTED"] == 2 * 6 + 1
    assert found["DYNAMIC_UPDATE_SLICE"] == 4
    assert found["BATCH_MATMUL"] == 4
    assert found["EMBEDDING_LOOKUP"] == 3
    assert found["TRANSPOSE"] == 0
    assert not {"GATHER_ND", "STABLEHLO_SCATTER", "SELECT_V2", "BROADCAST_TO"} & set(found)


@pytest.mark.parametrize("signature", ["prefill_6", "decode"])
def test_a_matrix_is_read_as_it_lies_also_where_heads_are_wider_than_the_model(signature: str) -> None:
    model = read_model(lower(signature, signatures(rewrite(tiny_llama(head_dim=48)), (6,))[signature], CPU))
    (subgraph,) = model.subgraphs
    uses = {
        subgraph.tensors[index].name.decode(): (operator_name(model, operator), operand)
        for operator in subgraph.operators
        for operand, index in enumerate(operator.inputs)
    }
    read = {name: use for name, use in uses.items() if name.endswith("proj_weight")}
    assert len(read) > 7
    assert set(read.values()) == {("FULLY_CONNECTED", 1)}


def test_an_expanded_graph_gives_the_numbers_of_the_semantic_one() -> None:
    program = parts()["prefill_6"]
    generator = torch.Generator().manual_seed(0)
    inputs = {
        node.target: torch.randn(node.meta["val"].shape, generator=generator)
        for node in program.graph.graph.find_nodes(op="placeholder")
    }
    inputs["tokens"] = torch.arange(6)[None]
    inputs["input_pos"] = torch.arange(6, dtype=torch.int32) + 3
    expected = program.graph(*inputs.values())
    actual = legalize(program.graph, CPU)(*inputs.values())
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-4 * float(value.std()))


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_rotary_embedding_needs_no_slice_with_a_step(interleaved: bool) -> None:
    tensors = [torch.randn(1, 3, 5, 14), torch.randn(5, 14), torch.randn(5, 14)]
    with FakeTensorMode() as mode:
        fakes = dict(zip(("x", "cos", "sin"), map(mode.from_tensor, tensors), strict=True))
    graph = traced(lambda x, cos, sin: ops.rotary(x, cos, sin, interleaved), fakes)
    expanded = legalize(graph, CPU)
    torch.testing.assert_close(expanded(*tensors), ops.rotary(*tensors, interleaved))
    slices = expanded.graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)
    assert all(len(node.args) < 5 for node in slices)


def test_an_operation_that_the_converter_has_no_form_for_is_refused_by_its_name() -> None:
    with FakeTensorMode():
        graph = traced(lambda x: {"y": torch.digamma(x)}, {"x": torch.empty(2, 3)})
    with pytest.raises(Refused, match=r"digamma.*converter has no form") as caught:
        lower("main", Program(graph), CPU)
    assert caught.value.at
