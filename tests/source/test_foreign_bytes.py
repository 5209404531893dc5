"""Configurations, headers and indices of any bytes: a model, or an error that says which file is wrong."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from autoconvert.source.checkpoint import open_checkpoint
from autoconvert.source.config import build_module, read_config
from autoconvert.source.gguf_file import GgufCheckpoint
from autoconvert.source.source import load_source
from autoconvert.source.token_ids import check_token_ids
from autoconvert.source.weights import Weights
from tests.foreign_bytes import VALUES, bounded, documents, ends_well, flipped
from tests.source.gguf_files import write_gguf
from tests.source.tiny import build, llama

BAD_INPUT, REFUSED = 2, 3
CONFIG = {**json.loads(llama().to_json_string(use_diff=False)), "model_type": "llama", "auto_map": {}}
IDS = {"eos_token_id": [1, 2], "bos_token_id": 1, "pad_token_id": 0, "text_config": {"eos_token_id": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(
        {"w": torch.arange(6.0).reshape(3, 2), "v": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors"
    )
    return tmp_path


@bounded
@given(content=documents(CONFIG))
def test_a_configuration_of_any_bytes(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    ends_well(lambda: build_module(read_config(folder)), BAD_INPUT, REFUSED)


@bounded
@given(content=documents(IDS), name=st.sampled_from(["generation_config.json", "config.json"]))
def test_token_ids_of_any_bytes(folder: Path, content: bytes, name: str) -> None:
    (folder / name).write_bytes(content)
    ends_well(lambda: check_token_ids(folder), BAD_INPUT)
    (folder / name).unlink()


def read_all(folder: Path) -> None:
    checkpoint: Weights = open_checkpoint(folder, allow_pickle=True)
    for name in checkpoint.names():
        if checkpoint.nbytes(name) < 1 << 20:
            assert checkpoint.read(name).shape == checkpoint.shape(name)


HEADER = {
    "w": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
    "v": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "__metadata__": {"format": "pt"},
}
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "I64", "F4", "BOOL"]), VALUES),
        "shape": st.one_of(st.lists(st.sampled_from([-1, 0, 1, 2, 3, 1 << 62, True, 2.0]), max_size=3), VALUES),
        "data_offsets": st.one_of(st.lists(st.sampled_from([-8, 0, 8, 24, 32, 1 << 62, 8.5]), max_size=3), VALUES),
    }
)


@bounded
@given(
    header=st.one_of(
        documents(HEADER),
        st.dictionaries(st.text(max_size=4), ENTRIES, max_size=3).map(lambda fields: json.dumps(fields).encode()),
    ),
    extra=st.sampled_from([-1, 0, 1, 1 << 40]),
)
def test_a_safetensors_header_of_any_bytes(folder: Path, header: bytes, extra: int) -> None:
    length = max(len(header) + extra, 0).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(length + header + bytes(32))
    ends_well(lambda: read_all(folder), BAD_INPUT)


@bounded
@given(bit=st.integers(0, 8 * 200))
def test_a_safetensors_file_with_a_bit_flipped(folder: Path, bit: int) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, bit % (8 * len(whole))))
    ends_well(lambda: read_all(folder), BAD_INPUT)
    path.write_bytes(whole)


@bounded
@given(content=documents({"metadata": {}, "weight_map": {"w": "part.safetensors", "v": "part.safetensors"}}))
def test_an_index_of_any_bytes(folder: Path, content: bytes) -> None:
    if (folder / "model.safetensors").is_file():
        (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(content)
    ends_well(lambda: read_all(folder), BAD_INPUT)


@bounded
@given(shards=st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=5), VALUES), max_size=3))
def test_shards_of_any_names(folder: Path, shards: dict[str, object]) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    ends_well(lambda: read_all(folder), BAD_INPUT, 5)


@bounded
@given(content=st.one_of(st.binary(max_size=60), st.binary(max_size=20).map(lambda tail: b"PK\3\4" + tail)))
def test_a_pickle_of_any_bytes(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "pytorch_model.bin").write_bytes(content)
    ends_well(lambda: read_all(folder), BAD_INPUT)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(build(llama(num_hidden_layers=1)), tmp_path_factory.mktemp("gguf") / "whole.gguf").read_bytes()


def read_gguf(path: Path) -> None:
    checkpoint = GgufCheckpoint([path])
    for name in checkpoint.names():
        if checkpoint.nbytes(name) < 1 << 20:
            assert checkpoint.read(name).shape == checkpoint.shape(name)


@bounded
@given(bit=st.integers(0, 8 * 1600), end=st.integers(0, 1 << 14), cut=st.booleans())
def test_a_damaged_gguf_file(tmp_path: Path, gguf: bytes, bit: int, end: int, cut: bool) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf[:end] if cut else flipped(gguf, bit))
    ends_well(lambda: read_gguf(path), BAD_INPUT)


@settings(bounded, max_examples=5)
@given(bit=st.integers(0, 8 * 1600))
def test_a_model_of_a_gguf_file_with_a_bit_flipped(tmp_path: Path, gguf: bytes, bit: int) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(flipped(gguf, bit))
    ends_well(lambda: load_source(path), BAD_INPUT, REFUSED)


@bounded
@given(content=st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda rest: b"GGUF\3\0\0\0" + rest)))
def test_a_gguf_file_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    ends_well(lambda: read_gguf(path), BAD_INPUT)
