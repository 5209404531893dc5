"""Encodings and recipes of one's own, made without touching the package, go all the way to a file that runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.schema_py_generated import TensorType

from autoconvert.check.constants import check_constants
from autoconvert.check.stored import Constants
from autoconvert.driver.convert import convert
from autoconvert.driver.needs import file_size, parameters_of
from autoconvert.errors import CheckFailed, InputError
from autoconvert.lowering import tiles
from autoconvert.lowering.link import Linked, link
from autoconvert.quantization.encoding import Encoded, Encoding, Numbers, Shape, Stored
from autoconvert.quantization.encodings.uniform import INT8_ROWS
from autoconvert.quantization.recipe import Recipe, RecipeRule
from autoconvert.source.source import load_source
from tests.lowering import weightless
from tests.source.tiny import build, llama

_HALF_STEP = np.float32(0.5001)


def encode_tensor(rows: Numbers) -> Encoded:
    scale = np.abs(rows).max() / np.float32(127)
    return Encoded(np.rint(rows / scale).astype(np.int8), scale.reshape(1))


def decode_tensor(data: Stored, scales: Numbers | None) -> Numbers:
    assert scales is not None
    return data.astype(np.float32) * scales[0]


def tolerance_of_tensor(rows: Numbers, scales: Numbers | None) -> Numbers:
    """Half the step of the whole tensor, of which `rows` may be a part."""
    assert scales is not None
    return np.full((len(rows), 1), scales[0] * _HALF_STEP)


def one_scale(shape: Shape) -> Shape:
    return (1,)


INT8_TENSOR = Encoding(
    "int8 by tensor",
    TensorType.INT8,
    np.int8,
    encode_tensor,
    decode_tensor,
    tolerance_of_tensor,
    scale_shape=one_scale,
    by_rows=False,
)
# Version 2 of DEQUANTIZE reads int8.
INT8_WIDENED = replace(INT8_TENSOR, name="int8 widened", dequantize_version=2)


def encode_nibbles(rows: Numbers) -> Encoded:
    scales = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-9)) / np.float32(7)
    nibbles = np.rint(rows / scales[:, None]).astype(np.int8).view(np.uint8) & 0x0F
    return Encoded(nibbles[:, 0::2] | nibbles[:, 1::2] << 4, scales)


def decode_nibbles(data: Stored, scales: Numbers | None) -> Numbers:
    """The lower half of a byte is the earlier number; a shift of int8 keeps the sign."""
    assert scales is not None
    pairs = np.stack([(data << 4).view(np.int8) >> 4, data.view(np.int8) >> 4], axis=-1)
    numbers: Numbers = pairs.reshape(len(data), -1).astype(np.float32) * scales[:, None]
    return numbers


def tolerance_of_nibbles(rows: Numbers, scales: Numbers | None) -> Numbers:
    assert scales is not None
    tolerance: Numbers = scales[:, None] * _HALF_STEP
    return tolerance


def scale_a_row(shape: Shape) -> Shape:
    return shape[:1]


INT4_ROWS = Encoding(
    "int4",
    TensorType.INT4,
    np.uint8,
    encode_nibbles,
    decode_nibbles,
    tolerance_of_nibbles,
    scale_shape=scale_a_row,
    packed=2,
)
OWN = (INT8_TENSOR, INT8_WIDENED, INT4_ROWS)
BY_TENSOR = Recipe("by tensor", "a quarter of the size, a scale a tensor", (RecipeRule(INT8_TENSOR),), rounding=0.25)


def linked(folder: Path, recipe: Recipe) -> Linked:
    store = weightless.checkpoint(torch.float32)
    return link(weightless.lowered(), weightless.weights(), store, recipe, folder / "model.tflite")


def check(file: Linked, recipe: Recipe) -> None:
    check_constants(file.path, weightless.weights(), weightless.checkpoint(torch.float32), recipe)


def test_one_scale_a_tensor_from_end_to_end(tmp_path: Path) -> None:
    bundle = convert(build(llama()), tmp_path, quantize=BY_TENSOR, formats=("tflite",), context=32, prefill=(4,))
    report = json.loads(bundle.files["report"].read_text())
    assert [check["name"] for check in report["checks"]][-2:] == ["constants", "file in the interpreter"]
    assert "by tensor changes them by" in report["checks"][-1]["detail"]
    assert report["settings"]["quantize"] == "by tensor"
    parameters = dict(build(llama()).named_parameters())
    matrices = sum(parameter.numel() for parameter in parameters.values() if parameter.ndim == 2)
    vectors = sum(parameter.numel() for parameter in parameters.values() if parameter.ndim == 1)
    assert report["bytes_by_dtype"] == {"int8 by tensor": matrices, "float32": 4 * vectors}
    tensors = Constants(bundle.files["tflite"]).tensors.values()
    assert {len(tensor.scales) for tensor in tensors if tensor.scales is not None} == {1}


def test_encodings_are_mixed_by_name(tmp_path: Path) -> None:
    """The head by rows, the layers by tensor, the embedding in four bits."""
    rules = (
        RecipeRule(INT8_ROWS, path="lm_head.weight"),
        RecipeRule(INT8_TENSOR, path=r"model\.layers\..*"),
        RecipeRule(INT4_ROWS, uses=frozenset({("EMBEDDING_LOOKUP", 1)})),
    )
    recipe = Recipe("mixed", "less than a quarter of the size", rules, rounding=0.5)
    module = build(llama())
    bundle = convert(module, tmp_path, quantize=recipe, formats=("tflite",), context=32, prefill=(4,))
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters() if parameter.ndim == 2}
    layers = sum(size for name, size in sizes.items() if name.startswith("model.layers."))
    stored = bundle.report.bytes_by_dtype
    assert stored["int8"] == sizes["lm_head.weight"]
    assert stored["int8 by tensor"] == layers
    assert stored["int4"] == sizes["model.embed_tokens.weight"] / 2
    assert any(check.name == "file in the interpreter" for check in bundle.report.checks)
    source = load_source(module)
    parameters = parameters_of(source, [name for name, _ in module.named_parameters()])
    assert file_size(parameters, recipe, signatures=0) == sum(stored.values())


@pytest.mark.parametrize("encoding", OWN, ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("delegate", [True, False], ids=["xnnpack", "builtin"])
@pytest.mark.parametrize("signature", weightless.LENGTHS)
def test_the_file_says_what_its_constants_say(
    tmp_path: Path, encoding: Encoding, delegate: bool, signature: str
) -> None:
    """Activations are quantized as they come, unless DEQUANTIZE has widened the weight."""
    recipe = Recipe("own", "", (RecipeRule(encoding),), rounding=1)
    file = linked(tmp_path, recipe)
    check(file, recipe)
    constants = Constants(file.path)
    values = {
        name: constants.read(name, recipe.encodings_of(weight.sources))
        if name in constants.tensors
        else torch.zeros(weight.shape)
        for name, weight in weightless.weights().items()
    }
    expected = weightless.torch_outputs(signature, values)
    actual = weightless.runtime_outputs(file.path, signature, delegate=delegate)
    assert actual.keys() == expected.keys()
    allowed = 1e-5 if encoding is INT8_WIDENED else 0.015
    for name, value in expected.items():
        assert np.abs(actual[name] - value).max() < allowed * np.abs(value).max()


def test_a_weight_that_no_kernel_reads_is_widened_where_a_recipe_asks_for_it(tmp_path: Path) -> None:
    recipe = Recipe("own", "", (RecipeRule(INT8_WIDENED, uses=frozenset({("BATCH_MATMUL", 1)})),), rounding=1)
    file = linked(tmp_path, recipe)
    assert file.bytes_by_dtype[INT8_WIDENED.name] == weightless.WIDTH**2
    check(file, recipe)
    assert weightless.runtime_outputs(file.path, "decode").keys() == {"logits", "hidden"}


def test_a_tensor_of_one_scale_is_one_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = linked(tmp_path, BY_TENSOR).path.read_bytes()
    monkeypatch.setattr(tiles, "_TILE_ELEMENTS", 100)
    monkeypatch.setattr("autoconvert.quantization.encode._TILE_ELEMENTS", 100)
    assert linked(tmp_path, BY_TENSOR).path.read_bytes() == whole


def test_a_tensor_that_is_not_finite_is_refused_by_row(tmp_path: Path) -> None:
    store = weightless.checkpoint()
    store.tensors["model.embed.weight"][211, 3] = float("nan")
    with pytest.raises(InputError, match=r"row 211 of model\.embed\.weight has NaN"):
        link(weightless.lowered(), weightless.weights(), store, BY_TENSOR, tmp_path / "model.tflite")


def test_a_wrong_scale_of_a_tensor_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, BY_TENSOR)
    scales = Constants(file.path).tensors["down"].scales
    assert scales is not None
    data = bytearray(file.path.read_bytes())
    position = data.index(scales.tobytes())
    data[position : position + 4] = (scales * np.float32(0.99)).tobytes()
    file.path.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"constant 'down' lies .*: int8 by tensor allows"):
        check(file, BY_TENSOR)


def test_another_encoding_of_the_same_type_than_asked_is_found(tmp_path: Path) -> None:
    rows = Recipe("rows", "", (RecipeRule(INT8_ROWS),), rounding=0.25)
    with pytest.raises(CheckFailed, match=r"int8 of \(300, 64\) in 19200 bytes with 1 scales .* in a rows file"):
        check(linked(tmp_path, BY_TENSOR), rows)
    with pytest.raises(CheckFailed, match=r"with 300 scales along axis 0 in a by tensor file"):
        check(linked(tmp_path, rows), BY_TENSOR)
