"""What a conversion writes into a receipt: of each kind of source, checked or not, and whatever happens to it."""

import errno
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoconvert
from autoconvert.errors import AutoconvertError, MachineError
from autoconvert.packaging.receipt import Receipt
from autoconvert.source.safetensors_file import SafetensorsFile
from tests.packaging.tiny_bundle import byte_level_tokenizer, tiny_llama
from tests.source.tiny import build, llama

CHECKS = ["rewrites", "constants", "file in the interpreter"]


def receipt_of(model: Path | nn.Module, output: Path, **options: Any) -> Receipt:
    given = {"context": 16, "prefill": (4,), "formats": ("tflite",), "quantize": "none", "verify": "off", **options}
    return autoconvert.convert(model, output, **given).report.receipt


def with_tokenizer(folder: Path) -> Path:
    tokenizer = byte_level_tokenizer(prepends_start=True)
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def test_a_module_in_memory_is_told_by_its_class_and_its_own_tensors(tmp_path: Path) -> None:
    module = build(llama()).to(torch.bfloat16)
    receipt = receipt_of(module, tmp_path)
    assert (receipt.source.kind, receipt.source.name) == ("module", "LlamaForCausalLM")
    parameters = dict(module.named_parameters())
    assert receipt.tensors.keys() == parameters.keys()
    for name, tensor in receipt.tensors.items():
        assert (tensor.dtype, tensor.shape) == ("bfloat16", tuple(parameters[name].shape))
        assert tensor.sha256 == digest(parameters[name])


def test_tensors_are_hashed_as_the_checkpoint_stores_them(tmp_path: Path) -> None:
    module = build(llama()).to(torch.float16)
    module.save_pretrained(tmp_path / "model")
    receipt = receipt_of(tmp_path / "model", tmp_path / "out")
    assert (receipt.source.kind, receipt.source.name) == ("folder", "model")
    assert receipt.tensors["model.norm.weight"].sha256 == digest(module.model.norm.weight)
    assert receipt.tensors["model.norm.weight"].dtype == "float16"


def test_only_tensors_that_went_into_the_file_are_told(tmp_path: Path) -> None:
    build(llama(tie_word_embeddings=True)).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in receipt_of(tmp_path / "tied", tmp_path / "out").tensors


def test_a_model_without_a_bundle_is_the_only_section(tmp_path: Path) -> None:
    receipt = receipt_of(build(llama()), tmp_path)
    (section,) = receipt.sections
    content = (tmp_path / "model.tflite").read_bytes()
    assert (section.size, section.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_checks_that_did_not_run_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked = receipt_of(build(llama()), tmp_path).checks
    assert [(check.name, check.passed, check.detail) for check in unchecked] == [
        (name, False, "not run: --verify off") for name in CHECKS
    ]
    driver = sys.modules["autoconvert.driver.link_and_check"]
    monkeypatch.setattr(driver, "why_not_run", lambda scratch: "not run: needs 2 GB, has 1 GB")
    checks = receipt_of(with_tokenizer(tmp_path / "model"), tmp_path, formats=("litertlm",), verify="quick").checks
    assert [(check.name, check.passed) for check in checks] == [
        *((name, name != CHECKS[-1]) for name in CHECKS),
        ("bundle in the runtime", False),
    ]
    assert checks[-2].detail == "not run: needs 2 GB, has 1 GB"
    assert checks[-1].detail == "not run: the file was not run"


def test_a_receipt_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("autoconvert.driver.receipts.write_receipt", full)
    with pytest.raises(MachineError, match="the disk is full"):
        receipt_of(with_tokenizer(tmp_path / "model"), tmp_path / "out", formats=("litertlm",))
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_cannot_be_hashed_ends_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(file: SafetensorsFile, name: str) -> None:
        raise MachineError(f"{file.path}: cannot be read (Input/output error)", hint="check disk and permissions")

    monkeypatch.setattr(SafetensorsFile, "pieces", lambda file, name: iter(lambda: unreadable(file, name), None))
    build(llama()).save_pretrained(tmp_path / "model")
    with pytest.raises(AutoconvertError, match="Input/output error"):
        receipt_of(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
