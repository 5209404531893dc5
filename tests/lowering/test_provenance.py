"""Every operation of a file says which module of the model it comes from."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoconvert.driver.convert import convert
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import operator_name, read_model
from autoconvert.lowering.litert import lower
from autoconvert.lowering.operation_names import FRAME, origin
from autoconvert.lowering.provenance import node_names
from autoconvert.lowering.workers import start_workers
from tests.models import Decoder, rewrite, signatures, tiny_llama
from tests.source.tiny import CONFIGS, build


def modules_of_operations(model: Any) -> Iterator[tuple[Any, str | None]]:
    """Each operator of a linked `ModelT` with its module's path, `model.layers.0.mlp`; None where it is the frame's."""
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            told = subgraph.tensors[operator.outputs[0]].name.partition(b";")[0].decode()
            yield operator, None if told == FRAME else told.strip("/").replace("/", ".")


@pytest.mark.parametrize(
    "module",
    [tiny_llama, Decoder, lambda: build(CONFIGS["mixtral"]).eval()],
    ids=["llama", "operations of the model as a whole", "experts"],
)
def test_every_operation_names_a_module_or_is_the_frames_own(module: type[nn.Module], tmp_path: Path) -> None:
    made = module()
    bundle = convert(made, tmp_path, context=32, prefill=(4,), formats=("tflite",), verify="off", cache=False)
    model = read_model(bundle.files["tflite"].read_bytes())
    modules = {name for name, _ in made.named_modules()}
    found = Counter(path for _, path in modules_of_operations(model))
    assert found.total() == sum(len(subgraph.operators) for subgraph in model.subgraphs)
    assert found.keys() - {None} <= modules
    # What is the frame's is little: masks and positions.
    assert found[None] < found.total() / 10
    names = [tensor.name for subgraph in model.subgraphs for tensor in subgraph.tensors]
    assert len(set(names)) == len(names)


def test_a_product_belongs_to_the_module_that_has_its_matrix(tmp_path: Path) -> None:
    bundle = convert(tiny_llama(), tmp_path, context=32, prefill=(4,), formats=("tflite",), verify="off", cache=False)
    model = read_model(bundle.files["tflite"].read_bytes())
    products = Counter(
        path
        for operator, path in modules_of_operations(model)
        if operator_name(model, operator) == "FULLY_CONNECTED" and path is not None and ".0." in path
    )
    assert {path.removeprefix("model.layers.0.") for path in products} == {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    }


def test_a_result_of_a_signature_belongs_to_the_module_whose_matrix_it_reads(tmp_path: Path) -> None:
    bundle = convert(tiny_llama(), tmp_path, context=32, prefill=(4,), formats=("tflite",), verify="off", cache=False)
    model = read_model(bundle.files["tflite"].read_bytes())
    (decode,) = [each for each in model.signatureDefs if each.signatureKey == b"decode"]
    (logits,) = [int(each.tensorIndex) for each in decode.outputs if each.name == b"logits"]
    assert origin(model.subgraphs[decode.subgraphIndex].tensors[logits].name.decode())[0] == "lm_head"


def test_an_operation_names_its_node_by_what_it_computes() -> None:
    graph = rewrite(tiny_llama()).graph.graph
    names = node_names(graph)
    assert len(set(names.values())) == len(names)
    (first, *_) = graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert names[first] == "linear_0"
    assert origin("model/layers/0/mlp;linear_3.1") == ("model/layers/0/mlp", "linear_3")
    assert origin("model/layers/0/mlp;17") == ("model/layers/0/mlp", "")


def test_the_other_process_lowers_to_the_same_bytes() -> None:
    part = signatures(rewrite(tiny_llama()), [4])["decode"]
    with start_workers() as workers:
        assert workers.lower("decode", part, CPU).result() == lower("decode", part, CPU)
