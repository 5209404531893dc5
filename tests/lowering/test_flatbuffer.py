"""Flatbuffers are merged without changing what they say, and written compactly."""

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor

from autoconvert.errors import AutoconvertError
from autoconvert.lowering import flatbuffer
from tests.lowering import weightless
from tests.lowering.on_device import lowered, postponed, run


def merged() -> bytes:
    return flatbuffer.write_model(flatbuffer.merge([flatbuffer.read_model(g) for g in weightless.lowered()]))


def called(model: bytes, signature: str) -> dict[str, np.ndarray]:
    store = weightless.checkpoint()
    weights = {name: weight.evaluate(store.read).numpy() for name, weight in weightless.weights().items()}
    runner = Interpreter(model_content=model).get_signature_runner(signature)
    return dict(runner(**weightless.sample_inputs(signature), **weights))


@pytest.mark.parametrize("signature", weightless.LENGTHS)
def test_merged_signature_says_what_its_own_file_says(signature: str) -> None:
    alone = weightless.lowered()[list(weightless.LENGTHS).index(signature)]
    expected, actual = called(alone, signature), called(merged(), signature)
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_composites_keep_their_own_decomposition() -> None:
    model = flatbuffer.read_model(merged())
    bodies = {}
    for signature in model.signatureDefs:
        for operator in model.subgraphs[signature.subgraphIndex].operators:
            if flatbuffer.operator_name(model, operator) == "STABLEHLO_COMPOSITE":
                body = model.subgraphs[operator.builtinOptions2.decompositionSubgraphIndex]
                bodies[signature.signatureKey] = tuple(body.tensors[body.inputs[0]].shape)
    assert bodies == {b"prefill_4": (1, 4, 64), b"decode": (1, 1, 64)}


def test_equal_constants_and_operator_codes_are_shared() -> None:
    alone = [flatbuffer.read_model(graph) for graph in weightless.lowered()]
    model = flatbuffer.read_model(merged())
    contents = [bytes(buffer.data) for buffer in model.buffers if buffer.data is not None]
    assert len(contents) == len(set(contents)) < sum(len(each.buffers) - 1 for each in alone)
    codes = [(code.builtinCode, code.customCode, code.version) for code in model.operatorCodes]
    assert len(codes) == len(set(codes))


def test_an_empty_constant_is_a_constant() -> None:
    content = flatbuffer.write_model(
        flatbuffer.merge([flatbuffer.read_model(lowered(scalar, torch.tensor([2.0, 3.0])))])
    )
    assert not postponed(content, (2,))
    (found,) = run(content, torch.tensor([2.0, 3.0]))
    assert found.tolist() == [4, 6]


def scalar(x: Tensor) -> Tensor:
    """Its RESHAPE to [] reads a shape without numbers."""
    return x[:1].reshape(()) * x


def test_names_of_tensors_and_subgraphs_are_unique() -> None:
    model = flatbuffer.read_model(merged())
    tensors = [tensor.name for subgraph in model.subgraphs for tensor in subgraph.tensors]
    assert len(tensors) == len(set(tensors))
    assert [subgraph.name for subgraph in model.subgraphs][::2] == [b"prefill_4", b"decode"]
    assert len({subgraph.name for subgraph in model.subgraphs}) == len(model.subgraphs)


def test_newest_runtime_version_and_each_metadata_once_is_kept() -> None:
    models = [flatbuffer.read_model(graph) for graph in weightless.lowered()]
    for model, version in zip(models, (b"2.9.0\0\0", b"2.17.1\0"), strict=True):
        (entry,) = (each for each in model.metadata if each.name == b"min_runtime_version")
        model.buffers[entry.buffer] = schema.BufferT(data=np.frombuffer(version, np.uint8))
    model = flatbuffer.merge(models)
    names = [entry.name for entry in model.metadata]
    assert len(names) == len(set(names))
    (entry,) = (each for each in model.metadata if each.name == b"min_runtime_version")
    assert model.buffers[entry.buffer].data.tobytes() == b"2.17.1\0"


def test_two_graphs_of_one_signature_are_refused() -> None:
    graph = weightless.lowered()[0]
    with pytest.raises(AutoconvertError, match="two graphs have the signature 'prefill_4'"):
        flatbuffer.merge([flatbuffer.read_model(graph), flatbuffer.read_model(graph)])


def test_other_bytes_are_refused() -> None:
    with pytest.raises(AutoconvertError, match="not a TFLite flatbuffer"):
        flatbuffer.read_model(b"PK\3\4 something else")


def test_array_that_tensors_share_is_written_once_and_size_does_not_follow_content() -> None:
    def written(scales: list[np.ndarray]) -> bytes:
        model = flatbuffer.read_model(weightless.lowered()[0])
        for tensor, scale in zip(model.subgraphs[0].tensors, scales, strict=False):
            tensor.quantization = schema.QuantizationParametersT(scale=scale)
        return flatbuffer.write_model(model)

    one = np.linspace(1, 2, 5000, dtype=np.float32)
    shared, apart = written([one, one]), written([one, one.copy()])
    assert len(apart) - len(shared) >= one.nbytes
    assert len(apart) == len(written([np.zeros(5000, np.float32), one * 3]))
    again = flatbuffer.read_model(shared)
    for tensor in again.subgraphs[0].tensors[:2]:
        np.testing.assert_array_equal(tensor.quantization.scale, one)


def test_data_inside_the_flatbuffer_is_aligned() -> None:
    data = merged()
    packed = schema.Model.GetRootAs(data, 0)
    starts = []
    for buffer in map(packed.Buffers, range(packed.BuffersLength())):
        if buffer.DataLength():
            content = buffer.DataAsNumpy()
            starts.append(content.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).ctypes.data)
    assert starts
    assert all(start % 16 == 0 for start in starts)


def test_dropping_unused_tensors_renumbers_the_rest() -> None:
    model = flatbuffer.read_model(weightless.lowered()[0])
    signature = model.signatureDefs[0]
    subgraph = model.subgraphs[0]
    before = {entry.name: subgraph.tensors[entry.tensorIndex].name for entry in signature.inputs}
    (unreached,) = (entry for entry in signature.inputs if entry.name == b"unreached")
    subgraph.inputs = [index for index in subgraph.inputs if index != unreached.tensorIndex]
    signature.inputs.remove(unreached)
    count = len(subgraph.tensors)
    flatbuffer.drop_unused_tensors(subgraph, signature)
    assert len(subgraph.tensors) == count - 1
    after = {entry.name: subgraph.tensors[entry.tensorIndex].name for entry in signature.inputs}
    assert after == {name: tensor for name, tensor in before.items() if name != b"unreached"}
