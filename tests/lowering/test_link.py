"""The linked file runs and says what the module says, whatever the recipe; failures leave nothing behind."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.compiled_model import CompiledModel
from torch import fx

from autoconvert.check.stored import Constants
from autoconvert.errors import AutoconvertError, InputError, MachineError
from autoconvert.lowering import flatbuffer, tiles
from autoconvert.lowering.link import Linked, link
from autoconvert.quantization.recipes import RECIPES, UNQUANTIZED
from autoconvert.system import streamed_file
from tests.lowering import weightless


def linked(folder: Path, recipe: str, store: weightless.MemoryStore | None = None) -> Linked:
    graphs, weights = weightless.lowered(), weightless.weights()
    return link(graphs, weights, store or weightless.checkpoint(), RECIPES[recipe], folder / "model.tflite")


def values_in_file(path: Path) -> dict[str, torch.Tensor]:
    """The weights of TinyModel as the file has them; the ones it does not have as zeros."""
    constants = Constants(path)
    return {
        name: constants.read(name) if name in constants.tensors else torch.zeros(weight.shape)
        for name, weight in weightless.weights().items()
    }


@pytest.mark.parametrize("signature", weightless.LENGTHS)
@pytest.mark.parametrize("delegate", [True, False], ids=["xnnpack", "builtin"])
@pytest.mark.parametrize("recipe", ["none", "fp16"])
def test_float_file_says_what_the_module_says(tmp_path: Path, recipe: str, delegate: bool, signature: str) -> None:
    file = linked(tmp_path, recipe)
    expected = weightless.torch_outputs(signature, values_in_file(file.path))
    actual = weightless.runtime_outputs(file.path, signature, delegate=delegate)
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("signature", weightless.LENGTHS)
@pytest.mark.parametrize("delegate", [True, False], ids=["xnnpack", "builtin"])
def test_int8_file_says_what_its_constants_say(tmp_path: Path, delegate: bool, signature: str) -> None:
    """Activations are quantized as they come, each FULLY_CONNECTED by 1/254 of its largest input."""
    file = linked(tmp_path, "int8")
    expected = weightless.torch_outputs(signature, values_in_file(file.path))
    actual = weightless.runtime_outputs(file.path, signature, delegate=delegate)
    assert actual.keys() == expected.keys()
    for name in expected:
        assert np.abs(actual[name] - expected[name]).max() < 0.015 * np.abs(expected[name]).max()


@pytest.mark.parametrize("recipe", ["none", "fp16", "int8", "int4"])
def test_the_runtime_of_the_phone_agrees_with_the_interpreter(tmp_path: Path, recipe: str) -> None:
    """CompiledModel verifies and loads the flatbuffer by code of its own."""
    path = linked(tmp_path, recipe).path
    expected = weightless.runtime_outputs(path, "decode")
    model = CompiledModel.from_file(str(path))
    inputs = {name: model.create_input_buffer_by_name("decode", name) for name in ("tokens", "input_pos")}
    outputs = {name: model.create_output_buffer_by_name("decode", name) for name in expected}
    for name, value in weightless.sample_inputs("decode").items():
        inputs[name].write(value)
    model.run_by_name("decode", inputs, outputs)
    for name, value in expected.items():
        actual = outputs[name].read(value.size, np.float32).reshape(value.shape)
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-5 * np.abs(value).max())


def test_values_of_weights_with_programs_are_stored(tmp_path: Path) -> None:
    store = weightless.checkpoint()
    constants = Constants(linked(tmp_path, "none", store).path)
    assert torch.equal(constants.read("norm"), 1 + store.tensors["model.norm.weight"].float())
    assert torch.equal(constants.read("up"), store.tensors["model.up.weight"].float().t())


def test_tied_weights_and_signatures_share_one_buffer(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    (tied,) = (tensor for tensor in file.tensors if "embed" in tensor.names)
    assert tied.names == ("embed", "head")
    assert tied.uses == ("EMBEDDING_LOOKUP:1", "FULLY_CONNECTED:1", "HEAD:1")
    tensors = Constants(file.path).tensors
    places = [tensors[name] for name in ("embed", "decode/embed", "head")]
    assert {(place.offset, place.size) for place in places} == {(tied.offset, tied.size)}
    assert file.size < 80_000


def test_weights_whose_programs_compute_the_same_are_stored_once(tmp_path: Path) -> None:
    def doubled(weight: torch.Tensor) -> torch.Tensor:
        return weight * 2

    def tripled(weight: torch.Tensor) -> torch.Tensor:
        return weight * 3

    def stored(embed: fx.GraphModule, head: fx.GraphModule) -> list[tuple[str, ...]]:
        weights = weightless.weights()
        weights["embed"] = replace(weights["embed"], program=embed)
        weights["head"] = replace(weights["head"], program=head)
        path = tmp_path / "model.tflite"
        file = link(weightless.lowered(), weights, weightless.checkpoint(), RECIPES["int8"], path)
        return [tensor.names for tensor in file.tensors if tensor.names[0] in ("embed", "head")]

    assert stored(fx.symbolic_trace(doubled), fx.symbolic_trace(doubled)) == [("embed", "head")]
    assert stored(fx.symbolic_trace(doubled), fx.symbolic_trace(tripled)) == [("embed",), ("head",)]


def test_only_tables_of_rows_are_stored_smaller(tmp_path: Path) -> None:
    names_by_dtype: dict[str, list[str]] = {}
    for tensor in linked(tmp_path, "int8").tensors:
        names_by_dtype.setdefault(tensor.dtype, []).append(tensor.names[0])
    assert names_by_dtype == {"int8": ["embed", "up", "down"], "float32": ["norm", "up_bias", "mix"]}


def test_what_is_looked_up_or_gives_the_logits_is_not_stored_in_four_bits(tmp_path: Path) -> None:
    dtypes = {tensor.names: tensor.dtype for tensor in linked(tmp_path, "int4").tensors if tensor.dtype != "float32"}
    assert dtypes == {("embed", "head"): "int8", ("up",): "int4", ("down",): "int4"}


def test_scales_of_blocks_are_stored_once(tmp_path: Path) -> None:
    file = linked(tmp_path, "int4")
    model = flatbuffer.read_model(file.path.read_bytes())
    scales = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors if b"up/scales" in tensor.name]
    assert [list(tensor.shape) for tensor in scales] == [[weightless.HIDDEN, weightless.WIDTH // 32]] * 2
    assert len({tensor.buffer for tensor in scales}) == 1


def test_signatures_keep_their_inputs_without_the_weights(tmp_path: Path) -> None:
    file = linked(tmp_path, "fp16")
    assert [(each.name, each.inputs, each.outputs) for each in file.signatures] == [
        ("prefill_4", ("input_pos", "tokens"), ("hidden",)),
        ("decode", ("input_pos", "tokens"), ("hidden", "logits")),
    ]
    assert file.unused == ("unreached",)


def test_report_counts_every_byte_of_the_weights(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    elements = {"int8": 300 * 64 + 2 * 96 * 64, "float32": 64 + 96 + 64 * 64}
    assert file.bytes_by_dtype == {"int8": elements["int8"], "float32": 4 * elements["float32"]}
    assert file.size == file.path.stat().st_size


def test_constants_lie_aligned_after_the_flatbuffer_and_do_not_overlap(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    end = file.flatbuffer_size
    for tensor in file.tensors:
        assert tensor.offset % 64 == 0
        assert tensor.offset >= end
        end = tensor.offset + tensor.size
    assert file.size >= end


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    first = linked(tmp_path, "int8").path.read_bytes()
    assert linked(tmp_path, "int8").path.read_bytes() == first


def test_tensors_without_program_are_read_by_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = linked(tmp_path, "int8").path.read_bytes()
    monkeypatch.setattr(tiles, "_TILE_ELEMENTS", 100 * weightless.WIDTH)
    store = weightless.checkpoint()
    assert linked(tmp_path, "int8", store).path.read_bytes() == whole
    pieces = sorted(piece for piece in store.rows_read if piece[0] == "model.embed.weight")
    assert [piece[1:] for piece in pieces] == [(0, 100), (100, 200), (200, 300)]


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    graphs, weights, store = weightless.lowered(), weightless.weights(), weightless.checkpoint()
    file = link(graphs, weights, store, RECIPES["int8"], tmp_path / "m", progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (file.size, file.size)


@pytest.mark.parametrize("name", ["model.embed.weight", "model.norm.weight", "model.up.weight", "model.mix.weight"])
@pytest.mark.parametrize("recipe", ["none", "fp16", "int8", "int4"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_weight_is_refused_by_name(tmp_path: Path, name: str, recipe: str, number: float) -> None:
    store = weightless.checkpoint()
    store.tensors[name].view(-1)[-1] = number
    with pytest.raises(InputError, match=rf"row \d+ of {name} has NaN or infinite"):
        linked(tmp_path, recipe, store)
    assert list(tmp_path.iterdir()) == []


def test_number_beyond_float16_is_refused_by_row(tmp_path: Path) -> None:
    store = weightless.checkpoint()
    store.tensors["model.down.weight"][5, 3] = 1e6
    with pytest.raises(InputError, match=r"row 5 of model\.down\.weight has numbers beyond float16"):
        linked(tmp_path, "fp16", store)


def test_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    store = weightless.checkpoint()
    store.tensors["model.down.weight"] = torch.zeros(3, 3)
    with pytest.raises(InputError, match=r"model\.down\.weight has shape \(3, 3\)"):
        linked(tmp_path, "none", store)


def test_input_of_another_shape_than_its_weight_is_our_error(tmp_path: Path) -> None:
    weights = weightless.weights()
    weights["down"] = replace(weights["down"], shape=(1, 1))
    with pytest.raises(AutoconvertError, match="'down' of 'prefill_4' has shape"):
        link(weightless.lowered(), weights, weightless.checkpoint(), UNQUANTIZED, tmp_path / "m.tflite")


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("halfway")])
def test_failure_halfway_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def stop(done: int, total: int) -> None:
        raise failure

    with pytest.raises(type(failure)):
        link(weightless.lowered(), weightless.weights(), weightless.checkpoint(), RECIPES["int8"], path, progress=stop)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"model.tflite": b"old"}


def test_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(MachineError, match=r"needs 0\.2 MB and its disk has 0\.1 MB left"):
        linked(tmp_path, "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_refused_write_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with (
        pytest.raises(MachineError, match="cannot write"),
        streamed_file.StreamedFile(tmp_path / "m", 10) as file,
    ):
        monkeypatch.setattr(file, "_file", RefusingFile(file._file.close, code))
        file.write_at(0, b"data")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="No such file"):
        linked(tmp_path / "nowhere", "none")


class RefusingFile:
    """A file on which writing fails as the system would let it fail."""

    def __init__(self, close: Callable[[], None], code: int) -> None:
        self.close = close
        self._code = code

    def tell(self) -> int:
        return 0

    def write(self, data: bytes) -> int:
        raise OSError(self._code, "refused")
