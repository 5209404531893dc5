"""What each call decides of a file's shapes, read from its flatbuffer, whatever bytes that has."""

from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.open_shapes import OPEN, open_shapes, rows_by_position

SHAPES = {b"state": (1, OPEN, 8), b"input_pos": (1,), b"table": (5, 8)}


@pytest.fixture
def content() -> bytes:
    """A lookup of `input_pos` in a table, beside a state whose length is open."""
    tensors = []
    for name, shape in SHAPES.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, [abs(size) for size in shape], list(shape)
        tensors.append(tensor)
    ports = []
    for index, name in enumerate([b"state", b"input_pos"]):
        port = schema.TensorMapT()
        port.name, port.tensorIndex = name, index
        ports.append(port)
    lookup, operator, subgraph, signature, model = (
        schema.OperatorCodeT(),
        schema.OperatorT(),
        schema.SubGraphT(),
        schema.SignatureDefT(),
        schema.ModelT(),
    )
    lookup.builtinCode = lookup.deprecatedBuiltinCode = schema.BuiltinOperator.EMBEDDING_LOOKUP
    operator.opcodeIndex, operator.inputs = 0, [1, 2]
    subgraph.tensors, subgraph.operators = tensors, [operator]
    signature.signatureKey, signature.subgraphIndex = b"decode", 0
    signature.inputs, signature.outputs = ports, ports[:1]
    model.operatorCodes, model.subgraphs, model.signatureDefs = [lookup], [subgraph], [signature]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return path


def test_only_what_a_call_decides_is_given(path: Path) -> None:
    state = {"state": SHAPES[b"state"]}
    assert open_shapes(path) == {"decode": (state, state)}


def test_the_rows_of_a_table_that_positions_look_up_are_counted(path: Path) -> None:
    assert rows_by_position(path, "input_pos") == 5
    assert rows_by_position(path, "state") is None


def test_whatever_byte_is_damaged_the_file_is_read_or_said_to_be_broken(content: bytes, path: Path) -> None:
    broken = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        for read in (open_shapes, lambda path: rows_by_position(path, "input_pos")):
            try:
                read(path)
            except RuntimeFailed as error:
                broken += 1
                assert str(path) in error.message and error.hint
    assert broken > len(content) / 4
