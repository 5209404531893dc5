"""A receipt against the bytes of its file and the tensors of a model: what is another one is named."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import autoconvert
from autoconvert.check.receipt import verdict_of_receipt
from autoconvert.check.verdict import RECEIPT, Verdict
from autoconvert.packaging import litertlm
from autoconvert.packaging.litertlm import Section, read_sections, write_section
from autoconvert.packaging.receipt import Receipt, as_json, read_receipt
from autoconvert.runtime.generate import generate
from autoconvert.source.source import load_source
from tests.foreign_bytes import bounded, documents
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)
    tiny_llama(len(tokenizer)).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def conversion(model: Path) -> autoconvert.Bundle:
    return autoconvert.convert(model, model.parent / "out", quantize="none", prefill=(4,))


@pytest.fixture
def file(conversion: autoconvert.Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copy(conversion.files["litertlm"], tmp_path))


def receipt_in(file: Path) -> Receipt:
    receipt = read_receipt(file, read_sections(file))
    assert receipt is not None
    return receipt


def place_in(file: Path) -> Section:
    return next(section for section in read_sections(file) if section.name == litertlm.RECEIPT)


def verdict(file: Path, model: Path | torch.nn.Module) -> Verdict:
    return verdict_of_receipt(file, read_sections(file), load_source(model))


def with_tensors(model: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of `model` with other tensors."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_conversion_says_what_it_was_made_of_and_how_it_was_checked(
    conversion: autoconvert.Bundle, model: Path
) -> None:
    receipt = receipt_in(conversion.files["litertlm"])
    assert (receipt.source.kind, receipt.source.name, receipt.source.revision) == ("folder", "tiny", None)
    assert receipt.settings["prefill"] == [4] and receipt.settings["quantize"] == "none"
    assert {"autoconvert", "torch", "transformers", "litert-converter"} <= receipt.versions.keys()
    assert [(check.name, check.passed) for check in receipt.checks] == [
        ("rewrites", True),
        ("constants", True),
        ("file in the interpreter", True),
        ("bundle in the runtime", True),
    ]
    assert all(check.detail for check in receipt.checks)
    assert receipt.tensors.keys() == load_file(model / "model.safetensors").keys()
    said = json.loads(conversion.files["report"].read_text())["receipt"]
    assert said == json.loads(as_json(receipt))


def test_the_engine_answers_from_a_bundle_with_a_receipt(file: Path) -> None:
    assert receipt_in(file).sections
    assert isinstance(generate(file, "The cat", max_tokens=4), str)


def test_a_file_as_it_was_written_passes_and_tells_where_it_comes_from(file: Path, model: Path) -> None:
    found = verdict(file, model)
    assert found.outcome == "passed", found
    assert "4 sections and 21 tensors" in found.detail and "of folder tiny" in found.detail
    assert "rewrites, constants, file in the interpreter, bundle in the runtime" in found.detail


@pytest.mark.parametrize("kind", ["LlmMetadataProto", "ExecutorMetadataProto", "HF_Tokenizer_Zlib", "TFLiteModel"])
def test_a_section_with_another_byte_is_named(kind: str, file: Path, model: Path) -> None:
    (section,) = [section for section in read_sections(file) if section.kind == kind]
    content = bytearray(file.read_bytes())
    content[section.end - 1] ^= 1
    file.write_bytes(content)
    found = verdict(file, model)
    assert found.outcome == "failed"
    assert found.detail == f"section {section.model or kind} is not as it was written"


def test_sections_that_are_others_are_listed(file: Path, model: Path) -> None:
    receipt = receipt_in(file)
    write_section(file, place_in(file), as_json(dataclasses.replace(receipt, sections=receipt.sections[1:])))
    found = verdict(file, model)
    assert found.outcome == "failed" and "its sections are LlmMetadataProto, " in found.detail


def test_a_tensor_with_another_number_is_named(file: Path, model: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    other = with_tensors(model, tmp_path / "other", lambda tensors: tensors[name][0].add_(1))
    found = verdict(file, other)
    assert found.outcome == "failed"
    assert found.detail.endswith(
        f"of the 21 tensors that it was made of, from folder tiny, the model has 1 with other values: {name}"
    )


def test_another_checkpoint_fails_with_the_first_names(file: Path, model: Path, tmp_path: Path) -> None:
    other = with_tensors(model, tmp_path / "other", lambda tensors: [each.mul_(2) for each in tensors.values()])
    found = verdict(file, other)
    assert found.outcome == "failed" and "the model has 21 with other values: " in found.detail
    assert found.detail.endswith("and 18 more")


def test_the_same_numbers_in_a_wider_dtype_are_the_same_tensors(file: Path, model: Path, tmp_path: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.float() for name, tensor in tensors.items()})

    wide = with_tensors(model, tmp_path / "wide", widen)
    assert verdict(file, wide).outcome == "passed"

    def refine(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] += 1e-6

    # It rounds to the same numbers, and is not what the file was made of.
    finer = with_tensors(wide, tmp_path / "finer", refine)
    found = verdict(file, finer)
    assert found.outcome == "failed" and "1 with other values: model.norm.weight" in found.detail


def test_the_module_in_memory_that_a_folder_holds_is_the_same_source(file: Path, model: Path) -> None:
    loaded = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert verdict(file, loaded).outcome == "passed"


def test_a_tensor_under_another_name_is_found_and_one_under_none_is_missed(
    file: Path, model: Path, tmp_path: Path
) -> None:
    receipt = receipt_in(file)
    renamed = {name.replace("model.norm", "gpt.norm"): tensor for name, tensor in receipt.tensors.items()}
    write_section(file, place_in(file), as_json(dataclasses.replace(receipt, tensors=renamed)))
    assert verdict(file, model).outcome == "passed"
    strange = dataclasses.replace(renamed["gpt.norm.weight"], sha256="0" * 64)
    lost = dataclasses.replace(receipt, tensors={**renamed, "gpt.norm.weight": strange})
    write_section(file, place_in(file), as_json(lost))
    found = verdict(file, model)
    assert found.outcome == "failed" and "the model lacks 1: gpt.norm.weight" in found.detail
    # In memory the same numbers may be stacked or split, so that nobody knows.
    found = verdict(file, LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16))
    assert found.outcome == "not checked" and "does not store 1 in that form" in found.detail


def test_a_file_without_a_receipt_has_none(tmp_path: Path, model: Path) -> None:
    from tests.packaging.tiny_bundle import bundle

    found = verdict(bundle(tmp_path / "model.litertlm"), model)
    assert (found.layer, found.outcome, found.detail) == (RECEIPT, "not checked", "it has none")


def test_a_receipt_of_a_later_version_is_not_checked(file: Path, model: Path) -> None:
    write_section(file, place_in(file), b'{"format": 2}')
    found = verdict(file, model)
    assert found.outcome == "not checked" and "later than" in found.detail


def test_names_that_cannot_be_shown_are_escaped_and_cut_short(file: Path, model: Path) -> None:
    receipt = receipt_in(file)
    tensor = receipt.tensors["model.norm.weight"]
    odd = {"\x1b[31m\ud800": dataclasses.replace(tensor, sha256="0" * 64), "n" * 10_000: tensor}
    odd["n" * 10_000] = dataclasses.replace(tensor, sha256="1" * 64)
    write_section(file, place_in(file), as_json(dataclasses.replace(receipt, tensors=odd)))
    found = verdict(file, model)
    assert found.outcome == "failed" and len(found.detail) < 500
    assert found.detail.isprintable() and r"\x1b[31m\ud800" in found.detail


SAID = {
    "format": 1,
    "source": {"kind": "folder", "name": "tiny", "revision": None},
    "settings": {},
    "versions": {"autoconvert": "0.1.0"},
    "checks": [{"name": "rewrites", "passed": True, "detail": "2 regions"}],
    "sections": [{"kind": "TFLiteModel", "size": 3, "sha256": "0" * 64}],
    "tensors": {"model.norm.weight": {"dtype": "float32", "shape": [64], "sha256": "0" * 64}},
}


@bounded
@given(content=documents(SAID))
def test_a_receipt_of_any_bytes_gets_a_verdict(conversion: autoconvert.Bundle, model: Path, content: bytes) -> None:
    file = conversion.files["litertlm"].with_name("foreign.litertlm")
    if not file.exists():
        shutil.copy(conversion.files["litertlm"], file)
    place = place_in(file)
    write_section(file, place, content[: place.end - place.begin])
    found = verdict_of_receipt(file, read_sections(file), load_source(model))
    assert found.outcome in ("failed", "not checked") and found.detail.isprintable(), found
