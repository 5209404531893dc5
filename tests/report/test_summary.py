"""The closing summary of a conversion."""

import dataclasses
from pathlib import Path

import pytest

from autoconvert.check.grade import Grade
from autoconvert.packaging.receipt import Receipt
from autoconvert.report.check_result import CheckResult
from autoconvert.report.progress import StageTime
from autoconvert.report.readable import readable_context
from autoconvert.report.report import Report
from autoconvert.report.summary import summary
from autoconvert.source.source import Origin

REPORT = Report(
    model="small",
    settings={
        "context": 64,
        "prefill": (16, 4),
        "why_fixed": "",
        "quantize": "int8",
        "formats": ("litertlm",),
        "verify": "quick",
    },
    blocks={"attention": 2, "feed_forward": 3},
    patterns={"attention.native.grouped": 2},
    near_misses=[
        {"pattern": "rms_norm", "node": "mean_1", "matched": 3, "of": 6, "reason": "eps is a tensor", "place": ""}
    ],
    layers=2,
    signatures=[{"name": "decode", "inputs": ["tokens", "kv_cache_k_0"], "outputs": ["logits", "kv_cache_k_0"]}],
    states=[{"name": "kv_cache_k_0", "shape": [1, 64, 1, 8], "kind": "key"}],
    files={"litertlm": 1500},
    bytes_by_dtype={"int8": 2_500_000, "float32": 900},
    checkpoint=[
        {"name": "head", "status": "used", "reason": "is head", "nbytes": 10},
        {"name": "vision.0", "status": "left out", "reason": "the graph does not reach it", "nbytes": 4000},
    ],
    checks=[
        CheckResult("rewrites", True, "2 regions"),
        CheckResult("bundle in the runtime", True, "within 1e-6"),
    ],
    notes=["chat template left out: it cannot render"],
    grade=Grade(256, 8.25, 12.5, 12.25, 0.975, 0.0031),
    stages=[StageTime("link", 1.5, "")],
    seconds=1.5,
    peak_memory=1_250_000_000,
    versions={"torch": "2.13.0"},
    receipt=Receipt(Origin("folder", "small"), {}, {}, (), (), {}),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "my models" / "model.litertlm"
    path.parent.mkdir()
    path.write_bytes(bytes(1500))
    return path


def lines(report: Report, bundle: Path, *, verbose: bool = False) -> list[str]:
    return [line.plain for line in summary(report, {"litertlm": bundle}, verbose=verbose)]


def test_it_says_what_was_written_found_and_spent(bundle: Path) -> None:
    said = lines(REPORT, bundle)
    assert f"{bundle}  1.5 kB" in said
    assert "model       small: 2 layers with a cache, 2 attention, 3 feed-forward" in said
    assert "context     64 positions, prefilled 16 or 4 at a time" in said
    assert "weights     2.5 MB int8, 900 bytes float32" in said
    grade = "8.25 bits a weight; in 256 tokens of text KL 0.0031, the model's next token 97.5%, perplexity 12.5 (12.25"
    assert f"grade       {grade} the model's)" in said
    assert "checkpoint  1 tensors used, 1 left out (4.0 kB)" in said
    assert "checked     rewrites, bundle in the runtime" in said
    assert "took        1.5 s, at most 1.2 GB of memory" in said


def test_notes_are_said_one_a_line(bundle: Path) -> None:
    said = lines(dataclasses.replace(REPORT, notes=["one token left out", "the template was changed"]), bundle)
    assert said[said.index("notes       one token left out") + 1] == "            the template was changed"
    assert not any(line.startswith("notes") for line in lines(dataclasses.replace(REPORT, notes=[]), bundle))


def test_the_next_command_can_be_pasted(bundle: Path) -> None:
    assert lines(REPORT, bundle)[-1].startswith(f"Next: autoconvert run '{bundle}' --prompt ")


def test_without_a_bundle_there_is_nothing_to_run(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").touch()
    said = [line.plain for line in summary(REPORT, {"tflite": tmp_path / "model.tflite"})]
    assert not any("autoconvert run" in line for line in said)


def test_details_are_for_those_who_ask(bundle: Path) -> None:
    details = [
        "     2  attention.native.grouped",
        "  rms_norm at mean_1, 3 of 6 operations: eps is a tensor",
        "  bundle in the runtime: within 1e-6",
        "  decode: tokens, 1 caches → logits, 1 caches",
        "  left out: vision.0 (4.0 kB), the graph does not reach it",
    ]
    assert not set(details) & set(lines(REPORT, bundle))
    assert set(details) <= set(lines(REPORT, bundle, verbose=True))


def test_what_was_not_checked_is_said(bundle: Path) -> None:
    not_run = CheckResult("file in the interpreter", False, "not run: needs 2 GB, has 1 GB")
    large = dataclasses.replace(REPORT, checks=[CheckResult("rewrites", True, "2 regions"), not_run])
    assert "checked     rewrites" in lines(large, bundle)
    assert "unchecked   file in the interpreter: not run: needs 2 GB, has 1 GB" in lines(large, bundle)
    unchecked = dataclasses.replace(REPORT, checks=[], settings={**REPORT.settings, "verify": "off"})
    assert "unchecked   nothing was compared with the model: --verify off" in lines(unchecked, bundle)
    assert not any(line.startswith("unchecked") for line in lines(REPORT, bundle))


def test_why_lengths_are_fixed_is_said_beside_them() -> None:
    fixed = {**REPORT.settings, "why_fixed": "attention adds a table of biases"}
    assert readable_context(fixed) == (
        "64 positions, prefilled 16 or 4 at a time, since attention adds a table of biases"
    )
    assert readable_context({**fixed, "prefill": ()}).startswith("64 positions, a text of any length")
