"""Checkpoints read tensor by tensor, and every way in which one can be broken."""

import json
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from autoconvert.errors import InputError, MachineError
from autoconvert.source.checkpoint import open_checkpoint

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {str(dtype): (torch.randn(5, 3, 2) * 50).to(dtype) for dtype in DTYPES}
    return {**made, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 4)}


def write_shards(folder: Path, shards: dict[str, dict[str, torch.Tensor]]) -> Path:
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def rewrite_header(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))


def test_a_single_file_reads_as_saved(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.names()) == set(tensors)
    for name, tensor in tensors.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == tensor.dtype
        assert checkpoint.nbytes(name) == tensor.nbytes
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_rows_are_those_of_axis_0(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    for dtype in DTYPES:
        for start, stop in [(0, 5), (1, 3), (4, 5), (2, 2)]:
            rows = checkpoint.read_rows(str(dtype), start, stop)
            assert torch.equal(rows, tensors[str(dtype)][start:stop])
    with pytest.raises(IndexError, match=r"rows 3:6 of torch\.float32"):
        checkpoint.read_rows("torch.float32", 3, 6)


def test_shards_read_as_saved(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    first = {name: tensors[name] for name in list(tensors)[:4]}
    second = {name: tensors[name] for name in list(tensors)[4:]}
    write_shards(tmp_path, {"model-1.safetensors": first, "model-2.safetensors": second})
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.names()) == set(tensors)
    assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in tensors.items())


def test_resident_memory_holds_what_is_read_and_not_the_file(tmp_path: Path) -> None:
    save_file({f"w{i}": torch.zeros(1 << 22) for i in range(20)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    process = psutil.Process()
    before = process.memory_info().rss
    for name in checkpoint.names():
        assert checkpoint.read(name).sum() == 0
    assert process.memory_info().rss - before < 128e6 < 20 * (4 << 22)


def test_a_truncated_file_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"whole": torch.zeros(8), "cut": torch.zeros(8)}, path)
    names = json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")
    last = max(names, key=lambda name: names[name]["data_offsets"][1])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=rf"model\.safetensors: tensor {last} ends .* truncated"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"{]]}",
        (2).to_bytes(8, "little") + b"[]",
        (10).to_bytes(8, "little") + b'{"a": 123}',
    ],
)
def test_a_corrupt_header_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: the header") as caught:
        open_checkpoint(tmp_path)
    assert "again" in caught.value.hint


def test_a_file_that_disappears_is_a_machine_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(4, 4)}, path)
    checkpoint = open_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(MachineError, match="No such file"):
        checkpoint.read("w")


def test_a_size_that_does_not_fit_the_shape_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(4, 4)}, path)
    rewrite_header(path, b"[4,4]", b"[4,3]")
    with pytest.raises(InputError, match="tensor w has 64 bytes, not 48"):
        open_checkpoint(tmp_path)


def test_an_unknown_dtype_is_an_error_only_for_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(4, dtype=torch.uint8), "v": torch.ones(2)}, path)
    rewrite_header(path, b'"U8"', b'"F4"')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.read("v").sum() == 2
    with pytest.raises(InputError, match="tensor w has dtype F4, not supported yet"):
        checkpoint.read("w")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.safetensors": {"x": torch.ones(2)}, "b.safetensors": {"y": torch.ones(2)}})
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors: missing; the index names it for tensor y"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a.safetensors": {"x": torch.ones(2)}})
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "z": "a.safetensors"}}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.read("x").sum() == 2
    with pytest.raises(InputError, match=r"a\.safetensors: does not hold tensor z"):
        checkpoint.shape("z")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_corrupt_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json: not a checkpoint index"):
        open_checkpoint(tmp_path)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "secret.safetensors")
    (inside / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../secret.safetensors"}}')
    with pytest.raises(InputError, match="lies outside of the folder"):
        open_checkpoint(inside)


def test_a_folder_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights \(model\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_read_only_when_allowed(tmp_path: Path, zipped: bool) -> None:
    weight = torch.randn(6, 2).to(torch.bfloat16)
    torch.save({"w": weight}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="pickles") as caught:
        open_checkpoint(tmp_path)
    assert "--allow-pickle" in caught.value.hint
    checkpoint = open_checkpoint(tmp_path, allow_pickle=True)
    assert torch.equal(checkpoint.read("w"), weight)
    assert torch.equal(checkpoint.read_rows("w", 2, 4), weight[2:4])


def test_sharded_pickles_are_joined(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "one.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "two.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "one.bin", "b": "two.bin"}}')
    with pytest.raises(InputError, match="pickles"):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path, allow_pickle=True)
    assert {name: checkpoint.shape(name) for name in checkpoint.names()} == {"a": (2,), "b": (3,)}


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code of the checkpoint ran",))


def test_a_pickle_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a pickle of tensors"):
        open_checkpoint(tmp_path, allow_pickle=True)
    assert "ran" not in capsys.readouterr().out


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path, allow_pickle=True).read("w").sum() == 2
