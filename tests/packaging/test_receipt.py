import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoconvert.errors import InputError
from autoconvert.lowering.cpu import CPU
from autoconvert.packaging import litertlm
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.receipt import (
    FORMAT,
    Checked,
    LaterFormat,
    Receipt,
    SectionDigest,
    as_json,
    parse_receipt,
    read_receipt,
    room_for,
    write_receipt,
)
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.packaging.tokenizer_section import TokenizerSection
from autoconvert.source.source import Origin
from autoconvert.source.tensors import StoredTensor
from tests.foreign_bytes import SCALARS, VALUES, bounded, documents, ends_well

SPEC = TokenizerSpec(TokenizerSection("huggingface", b'{"version": "1.0"}', ""), None, (1,), None, None)
RECEIPT = Receipt(
    source=Origin("hub", "owner/name", "c" * 40),
    settings={"context": 64, "quantize": "int8"},
    versions={"torch": "2.13.0"},
    checks=(Checked("rewrites", True, "2 regions"), Checked("constants", False, "not run: --verify off")),
    sections=(SectionDigest("HF_Tokenizer_Zlib", 3, "0" * 64),),
    tensors={"weight": StoredTensor("bfloat16", (2, 3), "1" * 64)},
)
SAID = json.loads(as_json(RECEIPT))


def bundle(folder: Path, room: int) -> Path:
    tflite, path = folder / "model.tflite", folder / "model.litertlm"
    tflite.write_bytes(bytes(range(256)) * 300)
    digest = hashlib.sha256(tflite.read_bytes()).hexdigest()
    metadata = build_llm_metadata(SPEC, 64), build_executor_metadata((), 64, CPU)
    litertlm.write_bundle(tflite, digest, SPEC.section, *metadata, path, CPU.section, receipt_room=room)
    return path


def test_what_is_written_is_read_again_with_the_digests_of_the_other_sections(tmp_path: Path) -> None:
    file = bundle(tmp_path, room_for(RECEIPT))
    written = write_receipt(file, RECEIPT, {"TFLiteModel": "a" * 64})
    sections = litertlm.read_sections(file)
    assert read_receipt(file, sections) == written
    assert dataclasses.replace(written, sections=RECEIPT.sections) == RECEIPT
    by_kind = {section.kind: section for section in written.sections}
    assert list(by_kind) == ["LlmMetadataProto", "ExecutorMetadataProto", "HF_Tokenizer_Zlib", "tf_lite_prefill_decode"]
    assert by_kind["tf_lite_prefill_decode"] == SectionDigest("tf_lite_prefill_decode", 256 * 300, "a" * 64)
    (tokenizer,) = [section for section in sections if section.kind == "HF_Tokenizer_Zlib"]
    content = file.read_bytes()[tokenizer.begin : tokenizer.end]
    assert by_kind["HF_Tokenizer_Zlib"].sha256 == hashlib.sha256(content).hexdigest()


def test_a_receipt_changes_no_other_byte_of_the_bundle(tmp_path: Path) -> None:
    file = bundle(tmp_path, room_for(RECEIPT))
    before = file.read_bytes()
    write_receipt(file, RECEIPT, {})
    after = file.read_bytes()
    (place,) = [section for section in litertlm.read_sections(file) if section.name == litertlm.RECEIPT]
    assert before[: place.begin] + before[place.end :] == after[: place.begin] + after[place.end :]
    assert json.loads(after[place.begin : place.end])["source"]["revision"] == "c" * 40


def test_a_bundle_without_room_has_no_receipt_and_takes_none(tmp_path: Path) -> None:
    file = bundle(tmp_path, 0)
    assert read_receipt(file, litertlm.read_sections(file)) is None
    with pytest.raises(InputError, match="no room for a receipt"):
        write_receipt(file, RECEIPT, {})


def test_room_is_left_for_what_follows(tmp_path: Path) -> None:
    file = bundle(tmp_path, room_for(dataclasses.replace(RECEIPT, checks=(), sections=())))
    long = Checked("bundle in the runtime", True, ", ".join(["65536"] * 500))
    write_receipt(file, dataclasses.replace(RECEIPT, checks=(*RECEIPT.checks, long)), {})


def test_a_room_that_was_never_filled_holds_no_receipt(tmp_path: Path) -> None:
    file = bundle(tmp_path, room_for(RECEIPT))
    with pytest.raises(InputError, match="the receipt cannot be read"):
        read_receipt(file, litertlm.read_sections(file))


def test_a_later_format_is_told_from_a_broken_receipt() -> None:
    with pytest.raises(LaterFormat, match="format 2, later than the 1"):
        parse_receipt(json.dumps({"format": FORMAT + 1}).encode())
    for wrong in (0, -1, True, "1"):
        with pytest.raises(InputError, match="cannot be read"):
            parse_receipt(json.dumps({**SAID, "format": wrong}).encode())


INNER = st.sampled_from(["source", "checks", "sections", "tensors"])


@bounded
@given(content=documents(SAID))
def test_a_receipt_of_any_bytes_is_one_or_bad_input(content: bytes) -> None:
    ends_well(lambda: parse_receipt(content), 2)


@bounded
@given(part=INNER, field=st.integers(0, 3), value=st.one_of(SCALARS, VALUES))
def test_a_receipt_of_any_parts_is_one_or_bad_input(part: str, field: int, value: object) -> None:
    said = json.loads(as_json(RECEIPT))
    inner = said[part]
    record = inner[0] if isinstance(inner, list) else inner.get("weight", inner)
    record[sorted(record)[field % len(record)]] = value
    ends_well(lambda: parse_receipt(json.dumps(said).encode()), 2)
