"""A compilation that is used again repeats no check that ran on other weights."""

import os
from pathlib import Path

from autoconvert.driver.compilation import Compilation
from autoconvert.report.check_result import CheckResult
from autoconvert.source.file_state import identity_of
from autoconvert.source.source import load_source
from tests.source.tiny import build, llama

CHECKS = (CheckResult("rewrites", True, "3 regions"), CheckResult("graph in chunks", True, "within 1e-7 σ"))


def kept(weights: str) -> Compilation:
    return Compilation(None, CHECKS, weights)  # type: ignore[arg-type]


def test_with_the_same_weights_all_checks_hold_and_say_when_they_ran() -> None:
    reused = kept("these").reused("these")
    assert [(check.name, check.detail) for check in reused.checks] == [
        ("rewrites", "3 regions when it was compiled"),
        ("graph in chunks", "within 1e-7 σ when it was compiled"),
    ]


def test_with_other_weights_only_those_hold_that_no_weight_decides() -> None:
    assert [check.name for check in kept("these").reused("others").checks] == ["rewrites"]


def test_weights_are_the_same_while_nothing_writes_to_their_files(tmp_path: Path) -> None:
    build(llama()).save_pretrained(tmp_path)
    path, source = tmp_path / "model.safetensors", load_source(tmp_path)
    before = identity_of(source.files)
    assert identity_of(load_source(tmp_path).files) == before
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    # Whoever sets the time back changes the entry.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert identity_of(source.files) != before
