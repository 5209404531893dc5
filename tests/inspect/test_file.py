"""A file that a device runs, ours or another's: its operations with tensors, types, encodings and modules."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from typer.testing import CliRunner

import autoconvert
from autoconvert.cli.inspect import app
from autoconvert.errors import InputError
from autoconvert.inspect.dump import Node
from autoconvert.inspect.file import read_file
from autoconvert.lowering.flatbuffer import operator_name, read_model, write_model
from tests.models import tiny_llama
from tests.packaging.test_litertlm import write as write_bundle


@pytest.fixture(scope="module")
def tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("file")
    return autoconvert.convert(tiny_llama(), folder, context=32, prefill=(4,), formats=("tflite",), verify="off").files[
        "tflite"
    ]


def by_name(nodes: tuple[Node, ...]) -> dict[str, Node]:
    found = {node.name: node for node in nodes}
    assert len(found) == len(nodes)
    return found


def test_a_step_is_a_signature_with_each_of_its_operations(tflite: Path) -> None:
    dump, model = read_file(tflite), read_model(tflite.read_bytes())
    assert [(step.name, step.signature, step.before) for step in dump.steps] == [
        ("prefill_4", "prefill_4", None),
        ("decode", "decode", None),
    ]
    for step, signature in zip(dump.steps, model.signatureDefs, strict=True):
        operators = model.subgraphs[signature.subgraphIndex].operators
        assert step.operations == Counter(operator_name(model, operator) for operator in operators)


def test_what_an_operation_reads_is_there_before_it(tflite: Path) -> None:
    dump = read_file(tflite)
    for nodes in dump.graphs.values():
        seen: set[str] = set()
        for node in nodes:
            assert {name for name, _ in node.inputs} <= seen
            seen.add(node.name)
        given = {node.name for node in nodes if node.operation == "input"}
        assert {"tokens", "input_pos", "mask", "kv_cache_k_0"} <= given


def test_a_product_says_its_module_its_options_and_how_its_matrix_is_stored(tflite: Path) -> None:
    nodes = by_name(read_file(tflite).graphs["decode"])
    (product,) = (n for n in nodes.values() if n.module == "model/layers/0/mlp/down_proj" and n.operation != "constant")
    assert product.operation == "FULLY_CONNECTED" and product.types == ("f32[1, 1, 32]",)
    known = dict(product.attributes)
    assert "keep_num_dims=True" in known["arguments"]
    assert known["bytes"] == str(48 * 32)
    matrix = nodes[product.inputs[1][0]]
    assert (matrix.operation, matrix.types) == ("constant", ("i8[32, 48]",))
    assert "i8 with 32 scales along axis 0" in dict(matrix.attributes)["detail"]


def test_results_are_named_as_the_signature_names_them(tflite: Path) -> None:
    nodes = read_file(tflite).graphs["decode"]
    results = {dict(node.attributes)["result"] for node in nodes if "result" in dict(node.attributes)}
    assert {"logits", "kv_cache_k_0", "kv_cache_v_0"} <= {name for each in results for name in each.split(", ")}


def test_bytes_are_told_by_module_and_what_signatures_share_once(tflite: Path) -> None:
    dump = read_file(tflite)
    stored = {(each.module, each.dtype): each.bytes for each in dump.stored}
    assert stored["model.layers.0.mlp.down_proj", "i8"] == 48 * 32
    assert sum(stored.values()) < tflite.stat().st_size


def test_the_models_of_a_bundle_are_read_where_they_lie(tflite: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "model.litertlm"
    write_bundle(tflite, bundle)
    assert read_file(bundle).graphs == read_file(tflite).graphs


def test_a_file_of_another_converter_needs_no_names_and_no_signature(tmp_path: Path) -> None:
    tensor = {"type": schema.TensorType.FLOAT32, "shape": np.array([2], np.int32), "shapeSignature": None}
    graph = schema.SubGraphT(
        tensors=[
            schema.TensorT(name=b"serving/x:0", buffer=0, **tensor),
            schema.TensorT(name=None, buffer=1, **tensor),
            schema.TensorT(name=b"net/dense_1/Relu", buffer=0, **tensor),
        ],
        inputs=[0],
        outputs=[2],
        operators=[
            schema.OperatorT(
                opcodeIndex=0,
                inputs=[0, 1],
                outputs=[2],
                builtinOptionsType=schema.BuiltinOptions.AddOptions,
                builtinOptions=schema.AddOptionsT(fusedActivationFunction=schema.ActivationFunctionType.RELU),
            )
        ],
    )
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(builtinCode=schema.BuiltinOperator.ADD, version=1)],
        subgraphs=[graph],
        buffers=[schema.BufferT(), schema.BufferT(data=np.array([1, 2], np.float32).view(np.uint8))],
    )
    path = tmp_path / "other.tflite"
    path.write_bytes(write_model(model))
    dump = read_file(path)
    assert [(step.name, step.signature) for step in dump.steps] == [("subgraph 0", "")]
    x, constant, add = dump.graphs["subgraph 0"]
    assert (x.name, constant.name, add.name) == ("serving_x_0", "constant", "net_dense_1_ADD")
    assert dict(constant.attributes)["detail"] == "[1.0, 2.0]"
    assert dict(add.attributes)["arguments"] == "%serving_x_0, %constant, fused_activation_function=relu"
    assert add.module == "net/dense_1"


def test_the_command_writes_the_page_beside_the_file_or_where_it_is_told(tflite: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tflite.read_bytes())
    result = CliRunner().invoke(app, [str(file), "--no-open"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{file}.html  ")
    other = tmp_path / "seen.html"
    assert CliRunner().invoke(app, [str(file), "--no-open", "-o", str(other)]).exit_code == 0
    assert other.read_bytes() == (tmp_path / "model.tflite.html").read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "damaged"),
        (b"text that is no model at all", "is no TFLite file"),
        (b"LITERTLM and then nothing", "cut short|no bundle|broken|not a"),
        (b"\x08\x00\x00\x00TFL3" + b"\xff" * 64, "damaged"),
    ],
)
def test_what_is_no_model_is_said_to_be_none(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_file(path)
    result = CliRunner().invoke(app, [str(path), "--no-open"])
    assert result.exit_code == 2 and not path.with_name("model.tflite.html").exists()


def test_a_file_that_is_cut_anywhere_gives_a_page_or_a_reason(tflite: Path, tmp_path: Path) -> None:
    content = tflite.read_bytes()
    path = tmp_path / "cut.tflite"
    for size in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:size])
        try:
            read_file(path)
        except InputError:
            continue


def test_a_file_with_wrong_bytes_anywhere_gives_a_page_or_a_reason(tflite: Path, tmp_path: Path) -> None:
    content, path = tflite.read_bytes(), tmp_path / "wrong.tflite"
    # Most of what is behind is names and numbers of weights.
    places = np.random.default_rng(0).integers(8, len(content) // 2, (60, 20))
    for chosen in places:
        damaged = bytearray(content)
        for place in chosen:
            damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        try:
            read_file(path)
        except InputError:
            continue


def test_an_operation_may_have_no_operands(tmp_path: Path) -> None:
    made = schema.TensorT(name=b"handle", type=schema.TensorType.RESOURCE, buffer=0)
    operator = schema.OperatorT(opcodeIndex=0, inputs=None, outputs=[0])
    graph = schema.SubGraphT(tensors=[made], inputs=None, outputs=[0], operators=[operator])
    code = schema.OperatorCodeT(builtinCode=schema.BuiltinOperator.VAR_HANDLE, version=1)
    model = schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=[schema.BufferT()])
    path = tmp_path / "handle.tflite"
    path.write_bytes(write_model(model))
    ((node,),) = read_file(path).graphs.values()
    assert (node.operation, node.inputs, node.types) == ("VAR_HANDLE", (), ("resource[]",))


def test_a_file_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        read_file(tmp_path / "model.tflite")
