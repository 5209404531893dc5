"""A wrong constant is found and named, however the file is stored; a right one is passed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoconvert.check.constants import CheckedConstants, Constants, check_constants
from autoconvert.errors import CheckFailed, InputError
from autoconvert.lowering.link import Linked, LinkedTensor, link
from autoconvert.quantization.quantize import Scheme
from tests.lowering import weightless


def linked(folder: Path, scheme: Scheme) -> Linked:
    path = folder / "model.tflite"
    return link(weightless.lowered(), weightless.weights(), weightless.checkpoint(torch.float32), scheme, path)


def checked(file: Linked, scheme: Scheme) -> CheckedConstants:
    return check_constants(file.path, weightless.weights(), weightless.checkpoint(torch.float32), scheme)


def tensor_of(file: Linked, name: str) -> LinkedTensor:
    return next(tensor for tensor in file.tensors if name in tensor.names)


def overwrite(file: Linked, name: str, row: int, column: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change one stored number of a constant."""
    tensor = tensor_of(file, name)
    dtype = np.dtype(tensor.dtype)
    data = bytearray(file.path.read_bytes())
    columns = tensor.shape[1] if len(tensor.shape) > 1 else 1
    position = tensor.offset + (row * columns + column) * dtype.itemsize
    number = np.frombuffer(data, dtype, count=1, offset=position)
    number[:] = change(number.copy())
    file.path.write_bytes(data)


def test_damaged_or_missing_file_is_an_input_error(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(file.path.read_bytes()[:3000])
    with pytest.raises(InputError, match="is damaged"):
        Constants(damaged)
    damaged.write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        Constants(damaged)
    with pytest.raises(InputError, match="No such file"):
        Constants(tmp_path / "missing.tflite")


@pytest.mark.parametrize("scheme", ["none", "fp16", "int8"])
def test_linked_file_passes_and_every_weight_is_compared(tmp_path: Path, scheme: Scheme) -> None:
    file = linked(tmp_path, scheme)
    result = checked(file, scheme)
    assert result.constants == len(file.tensors)
    assert result.numbers == sum(int(np.prod(tensor.shape)) for tensor in file.tensors)
    assert result.absent == ("unreached",)
    assert (0.45 < result.steps < 0.5001) if scheme == "int8" else result.steps == 0


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("none", "embed"),
        ("none", "norm"),
        ("fp16", "down"),
        ("fp16", "up_bias"),
        ("int8", "up"),
        ("int8", "mix"),
    ],
)
def test_smallest_wrong_number_is_found_and_named(tmp_path: Path, scheme: Scheme, name: str) -> None:
    file = linked(tmp_path, scheme)

    def next_number(number: np.ndarray) -> np.ndarray:
        if number.dtype == np.int8:
            return np.where(number < 127, number + 1, number - 1)
        return np.asarray(np.nextafter(number, np.array(np.inf, number.dtype)))

    overwrite(file, name, 40, 0, next_number)
    with pytest.raises(CheckFailed, match=rf"row 40 of constant '{name}' lies .* from its source model\."):
        checked(file, scheme)


def test_number_that_is_not_finite_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "fp16")
    overwrite(file, "embed", 299, 63, lambda number: np.full_like(number, np.nan))
    with pytest.raises(CheckFailed, match="row 299 of constant 'embed'"):
        checked(file, "fp16")


def test_step_coarser_than_the_row_needs_is_found(tmp_path: Path) -> None:
    """With a step large enough, zeros would lie within half a step of anything."""
    file = linked(tmp_path, "int8")
    scales = Constants(file.path).tensors["down"].scales
    assert scales is not None
    data = bytearray(file.path.read_bytes())
    position = data.index(scales.tobytes())
    data[position : position + scales.nbytes] = (scales * 1000).tobytes()
    tensor = tensor_of(file, "down")
    data[tensor.offset : tensor.offset + tensor.size] = bytes(tensor.size)
    file.path.write_bytes(data)
    with pytest.raises(CheckFailed, match="row 0 of constant 'down'"):
        checked(file, "int8")


def test_file_stored_in_another_way_than_asked_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    with pytest.raises(CheckFailed, match=r"int8 of .* in a fp16 file"):
        checked(file, "fp16")


def test_weight_that_is_still_an_input_is_found(tmp_path: Path) -> None:
    weights = weightless.weights()
    left_out = weights.pop("mix")
    path = tmp_path / "model.tflite"
    link(weightless.lowered(), weights, weightless.checkpoint(), "none", path)
    with pytest.raises(CheckFailed, match="'mix' is still an input of signature 'prefill_4'"):
        check_constants(path, {**weights, "mix": left_out}, weightless.checkpoint(), "none")


def test_quantised_constant_without_source_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    weights = weightless.weights()
    del weights["down"]
    with pytest.raises(CheckFailed, match="'down' is quantised, and no weight is its source"):
        check_constants(file.path, weights, weightless.checkpoint(torch.float32), "int8")


def test_wrong_program_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "none")
    weights = weightless.weights()
    weights["norm"] = replace(weights["norm"], program=None)
    with pytest.raises(CheckFailed, match="row 0 of constant 'norm' lies 1"):
        check_constants(file.path, weights, weightless.checkpoint(torch.float32), "none")


def test_file_cut_short_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    with file.path.open("r+b") as opened:
        opened.truncate(tensor_of(file, "mix").offset + 100)
    with pytest.raises(CheckFailed, match="ends within constant 'mix'"):
        checked(file, "int8")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"something else entirely")
    with pytest.raises(InputError, match="is not a TFLite file"):
        Constants(path)


def test_constants_are_read_by_name_whole_or_by_rows(tmp_path: Path) -> None:
    source = weightless.checkpoint(torch.float32).tensors["model.embed.weight"]
    path = linked(tmp_path, "fp16").path
    assert torch.equal(Constants(path).read("embed"), source.half().float())
    assert torch.equal(Constants(path).read_rows("embed", 10, 20), source[10:20].half().float())
    assert Constants(path).shape("embed") == tuple(source.shape)
    with pytest.raises(InputError, match="has no constant 'nothing'"):
        Constants(path).read("nothing")
