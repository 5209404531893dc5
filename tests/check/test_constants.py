"""A wrong constant is found and named, however the file is stored; a right one is passed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoconvert.check.constants import CheckedConstants, check_constants
from autoconvert.check.stored import Constants
from autoconvert.errors import CheckFailed, InputError
from autoconvert.lowering.link import Linked, LinkedTensor, link
from autoconvert.quantization.recipes import RECIPES, UNQUANTIZED
from tests.lowering import weightless


def linked(folder: Path, recipe: str) -> Linked:
    path = folder / "model.tflite"
    return link(weightless.lowered(), weightless.weights(), weightless.checkpoint(torch.float32), RECIPES[recipe], path)


def checked(file: Linked, recipe: str) -> CheckedConstants:
    return check_constants(file.path, weightless.weights(), weightless.checkpoint(torch.float32), RECIPES[recipe])


def tensor_of(file: Linked, name: str) -> LinkedTensor:
    return next(tensor for tensor in file.tensors if name in tensor.names)


def overwrite(file: Linked, name: str, row: int, column: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change one stored number of a constant; of int4 the byte that it is in."""
    tensor = tensor_of(file, name)
    dtype, packed = (np.dtype(np.uint8), 2) if tensor.dtype == "int4" else (np.dtype(tensor.dtype), 1)
    data = bytearray(file.path.read_bytes())
    columns = tensor.shape[1] if len(tensor.shape) > 1 else 1
    position = tensor.offset + (row * columns + column) // packed * dtype.itemsize
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


@pytest.mark.parametrize("recipe", ["none", "fp16", "int8", "int4"])
def test_linked_file_passes_and_every_weight_is_compared(tmp_path: Path, recipe: str) -> None:
    file = linked(tmp_path, recipe)
    result = checked(file, recipe)
    assert result.constants == len(file.tensors)
    assert result.numbers == sum(int(np.prod(tensor.shape)) for tensor in file.tensors)
    assert result.absent == ("unreached",)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("none", "embed"),
        ("none", "norm"),
        ("fp16", "down"),
        ("fp16", "up_bias"),
        ("int8", "up"),
        ("int8", "mix"),
        ("int4", "down"),
    ],
)
def test_smallest_wrong_number_is_found_and_named(tmp_path: Path, recipe: str, name: str) -> None:
    file = linked(tmp_path, recipe)

    def next_number(number: np.ndarray) -> np.ndarray:
        if number.dtype == np.int8:
            return np.where(number < 127, number + 1, number - 1)
        if number.dtype == np.uint8:
            # The lower half of the byte is a number.
            return np.where(number & 0xF == 7, number - 1, number + 1 - (number & 0xF == 0xF) * 16).astype(np.uint8)
        return np.asarray(np.nextafter(number, np.array(np.inf, number.dtype)))

    overwrite(file, name, 40, 0, next_number)
    with pytest.raises(CheckFailed, match=rf"row 40 of constant '{name}' lies .* from its source model\."):
        checked(file, recipe)


def test_number_that_is_not_finite_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "fp16")
    overwrite(file, "embed", 299, 63, lambda number: np.full_like(number, np.nan))
    with pytest.raises(CheckFailed, match="row 299 of constant 'embed'"):
        checked(file, "fp16")


def change_scales(file: Linked, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the scales of a constant, which its tensors in all signatures share."""
    stored = Constants(file.path).tensors[name]
    assert stored.scales is not None
    dtype = np.float32 if stored.block is None else np.float16
    data, here, there = (
        bytearray(file.path.read_bytes()),
        stored.scales.astype(dtype).tobytes(),
        change(stored.scales).astype(dtype).tobytes(),
    )
    position = data.index(here)
    data[position : position + len(here)] = there
    file.path.write_bytes(data)


@pytest.mark.parametrize("name", ["up", "down"])
@pytest.mark.parametrize("factor", [0.98, 1.02, -1, 0, np.nan])
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_wrong_scale_is_found(tmp_path: Path, name: str, factor: float, recipe: str) -> None:
    file = linked(tmp_path, recipe)
    rows = tensor_of(file, name).shape[0]

    def changed(scales: np.ndarray) -> np.ndarray:
        row = np.repeat(np.arange(rows) == 30, len(scales) // rows)
        return np.where(row, scales * np.float32(factor), scales)

    change_scales(file, name, changed)
    with pytest.raises(CheckFailed, match=f"row 30 of constant '{name}' lies"):
        checked(file, recipe)


@pytest.mark.parametrize(("recipe", "size"), [("none", 4), ("fp16", 2), ("int8", 1), ("int4", 0.5)])
def test_rows_in_each_others_place_are_found(tmp_path: Path, recipe: str, size: float) -> None:
    file = linked(tmp_path, recipe)
    tensor = tensor_of(file, "down")
    data = bytearray(file.path.read_bytes())
    width = int(tensor.shape[1] * size)
    seventh, eighth = (tensor.offset + row * width for row in (7, 8))
    here, there = slice(seventh, seventh + width), slice(eighth, eighth + width)
    data[here], data[there] = data[there], data[here]
    file.path.write_bytes(data)
    with pytest.raises(CheckFailed, match="row 7 of constant 'down' lies"):
        checked(file, recipe)


def test_numbers_shifted_by_one_place_are_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    tensor = tensor_of(file, "down")
    data = bytearray(file.path.read_bytes())
    numbers = slice(tensor.offset, tensor.offset + tensor.size)
    data[numbers] = data[tensor.offset + 1 : tensor.offset + tensor.size] + bytes(1)
    file.path.write_bytes(data)
    with pytest.raises(CheckFailed, match="row 0 of constant 'down' lies"):
        checked(file, "int8")


def test_step_coarser_than_the_row_needs_is_found(tmp_path: Path) -> None:
    """With a step large enough, zeros would lie within half a step of anything."""
    file = linked(tmp_path, "int8")
    change_scales(file, "down", lambda scales: scales * 1000)
    data = bytearray(file.path.read_bytes())
    tensor = tensor_of(file, "down")
    data[tensor.offset : tensor.offset + tensor.size] = bytes(tensor.size)
    file.path.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"row 0 of constant 'down' .*: its scale is wrong"):
        checked(file, "int8")


def test_file_stored_in_another_way_than_asked_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    with pytest.raises(CheckFailed, match=r"int8 of .* in a fp16 file"):
        checked(file, "fp16")


def test_weight_that_is_still_an_input_is_found(tmp_path: Path) -> None:
    weights = weightless.weights()
    left_out = weights.pop("mix")
    path = tmp_path / "model.tflite"
    link(weightless.lowered(), weights, weightless.checkpoint(), UNQUANTIZED, path)
    with pytest.raises(CheckFailed, match="'mix' is still an input of signature 'prefill_4'"):
        check_constants(path, {**weights, "mix": left_out}, weightless.checkpoint(), UNQUANTIZED)


def test_quantized_constant_without_source_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "int8")
    weights = weightless.weights()
    del weights["down"]
    with pytest.raises(CheckFailed, match="'down' is quantized, and no weight is its source"):
        check_constants(file.path, weights, weightless.checkpoint(torch.float32), RECIPES["int8"])


def test_wrong_program_is_found(tmp_path: Path) -> None:
    file = linked(tmp_path, "none")
    weights = weightless.weights()
    weights["norm"] = replace(weights["norm"], program=None)
    with pytest.raises(CheckFailed, match="row 0 of constant 'norm' lies 1"):
        check_constants(file.path, weights, weightless.checkpoint(torch.float32), UNQUANTIZED)


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


def test_constants_are_read_by_name(tmp_path: Path) -> None:
    source = weightless.checkpoint(torch.float32).tensors["model.embed.weight"]
    path = linked(tmp_path, "fp16").path
    assert torch.equal(Constants(path).read("embed"), source.half().float())
    with pytest.raises(InputError, match="has no constant 'nothing'"):
        Constants(path).read("nothing")
