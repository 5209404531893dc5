"""A `.tflite` of any bytes: what is wrong with it is said, in no more time and memory than its size explains."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from autoconvert.check.constant_types import describe
from autoconvert.check.stored import Constants
from autoconvert.errors import AutoconvertError
from autoconvert.lowering.flatbuffer import read_model
from tests.foreign_bytes import bounded, ends_well

BAD_INPUT, CHECK_FAILED = 2, 4
Reader = Callable[[Path], object]


def read_objects(path: Path) -> object:
    return read_model(path.read_bytes())


READERS = pytest.mark.parametrize("read", [describe, Constants, read_objects])
SCALES, AFTER = 3, 64


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A file with a constant after the flatbuffer and one in it, scales, an operation and a signature."""
    scales = schema.QuantizationParametersT(scale=np.ones(SCALES, np.float32), zeroPoint=np.zeros(SCALES, np.int64))
    float32, int8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
    tensors = [
        schema.TensorT(name=b"x", shape=[1, 4], shapeSignature=[1, 4], type=float32),
        schema.TensorT(name=b"up", shape=[SCALES, 4], type=int8, buffer=1, quantization=scales),
        schema.TensorT(name=b"two", shape=[2], type=float32, buffer=2),
        schema.TensorT(name=b"y", shape=[1, SCALES], type=float32),
    ]
    product = schema.OperatorT(inputs=[0, 1, 2], outputs=[3])
    port = schema.TensorMapT(name=b"x", tensorIndex=0)
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(builtinCode=9, deprecatedBuiltinCode=9, version=1)],
        subgraphs=[schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[3], operators=[product], name=b"main")],
        buffers=[
            schema.BufferT(),
            schema.BufferT(offset=AFTER, size=4 * SCALES),
            schema.BufferT(data=np.zeros(8, np.uint8)),
        ],
        signatureDefs=[schema.SignatureDefT(signatureKey=b"decode", inputs=[port], outputs=[])],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()) + bytes(4 * SCALES)


@READERS
def test_the_whole_file_is_read(whole: bytes, tmp_path: Path, read: Reader) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(whole)
    read(file)


def test_the_largest_tensor_that_is_computed_is_known(whole: bytes, tmp_path: Path) -> None:
    """That of four numbers, and no constant."""
    file = tmp_path / "model.tflite"
    file.write_bytes(whole)
    assert describe(file).largest == 16


# What lengths, offsets, indices and types become.
NUMBERS = st.sampled_from([0, 1, 4, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
CHANGES = st.lists(st.tuples(st.integers(0, 4000), NUMBERS, st.sampled_from(["<B", "<H", "<I"])), max_size=5)


def changed(content: bytes, changes: list[tuple[int, int, str]], cut: int | None) -> bytes:
    damaged = bytearray(content)
    for at, number, width in changes:
        size = struct.calcsize(width)
        struct.pack_into(width, damaged, at % (len(content) - size), number % (1 << 8 * size))
    return bytes(damaged) if cut is None else bytes(damaged[: cut % len(content)])


@READERS
@bounded
@given(changes=CHANGES, cut=st.one_of(st.none(), st.none(), st.integers(0, 4000)))
def test_a_damaged_file_is_read_or_refused(
    whole: bytes, tmp_path: Path, read: Reader, changes: list[tuple[int, int, str]], cut: int | None
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(changed(whole, changes, cut))
    ends_well(lambda: read(file), BAD_INPUT, CHECK_FAILED)


@READERS
@bounded
@given(rest=st.binary(max_size=60))
def test_anything_behind_the_identifier_is_read_or_refused(tmp_path: Path, read: Reader, rest: bytes) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(struct.pack("<I", 8) + b"TFL3" + rest)
    ends_well(lambda: read(file), BAD_INPUT, CHECK_FAILED)


def many_times(count: int) -> bytes:
    """A small file of `count` subgraphs of as many tensors of as many axes and scales, which are all the same ones."""
    builder = flatbuffers.Builder(1024)

    def same(child: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(child)
        return int(builder.EndVector())

    name = builder.CreateString("x")
    axes, scales = builder.CreateNumpyVector(np.ones(count, np.int32)), builder.CreateNumpyVector(np.ones(count, "f4"))
    schema.QuantizationParametersStart(builder)
    schema.QuantizationParametersAddScale(builder, scales)
    quantization = schema.QuantizationParametersEnd(builder)
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, axes)
    schema.TensorAddName(builder, name)
    schema.TensorAddQuantization(builder, quantization)
    tensors = same(schema.TensorEnd(builder))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    subgraphs = same(schema.SubGraphEnd(builder))
    schema.BufferStart(builder)
    schema.BufferAddOffset(builder, 2)
    schema.BufferAddSize(builder, 8)
    buffers = same(schema.BufferEnd(builder))
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, subgraphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


@READERS
def test_a_list_that_is_named_many_times_costs_neither_time_nor_memory(tmp_path: Path, read: Reader) -> None:
    """Walked, it would be ten to the ninth sizes."""
    file = tmp_path / "model.tflite"
    file.write_bytes(many_times(1000))
    tracemalloc.start()
    try:
        ends_well(lambda: read(file), BAD_INPUT, CHECK_FAILED)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(AutoconvertError, match="longer than its"):
        read(file)
