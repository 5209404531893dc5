"""The report: everything that a conversion found, did and checked, as `report.json`."""

import dataclasses
import json
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoconvert.check.grade import Grade
from autoconvert.ir.fusion import Fusion
from autoconvert.ir.state import State
from autoconvert.lowering.link import Linked
from autoconvert.packaging.receipt import Receipt
from autoconvert.report.check_result import CheckResult
from autoconvert.report.progress import StageTime
from autoconvert.source.accounting import Row

_PACKAGES = (
    "autoconvert",
    "torch",
    "transformers",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-lm-api",
    "litert-lm-builder",
)


@dataclass(frozen=True)
class Report:
    """What `report.json` holds; sizes in bytes, times in seconds; `notes` are sentences for the summary."""

    model: str
    settings: dict[str, Any]
    blocks: dict[str, int]
    patterns: dict[str, int]
    near_misses: list[dict[str, Any]]
    layers: int
    signatures: list[dict[str, Any]]
    states: list[dict[str, Any]]
    files: dict[str, int]
    bytes_by_dtype: dict[str, int]
    checkpoint: list[dict[str, Any]]
    checks: list[CheckResult]
    notes: list[str]
    grade: Grade | None
    stages: list[StageTime]
    seconds: float
    peak_memory: int
    versions: dict[str, str]
    receipt: Receipt


def make_report(
    model: str,
    settings: dict[str, Any],
    fusion: Fusion,
    states: Sequence[State],
    linked: Linked,
    rows: Sequence[Row],
    files: Mapping[str, Path],
    stages: Sequence[StageTime],
    checks: Sequence[CheckResult],
    notes: Sequence[str],
    grade: Grade | None,
    receipt: Receipt,
) -> Report:
    """Gathers a finished conversion; `notes` are sentences on what could not be kept as it was."""
    return Report(
        model=model,
        settings=settings,
        blocks=fusion.blocks,
        patterns=fusion.patterns,
        near_misses=[dataclasses.asdict(miss) for miss in fusion.near_misses],
        layers=layers_of(states),
        signatures=[dataclasses.asdict(signature) for signature in linked.signatures],
        states=[{"name": state.name, "shape": state.shape, "kind": state.kind} for state in states],
        files={name: file.stat().st_size for name, file in files.items()},
        bytes_by_dtype=linked.bytes_by_dtype,
        checkpoint=[dataclasses.asdict(row) for row in rows],
        checks=list(checks),
        notes=list(notes),
        grade=grade,
        stages=list(stages),
        seconds=sum(stage.seconds for stage in stages),
        peak_memory=_peak_memory(),
        versions=receipt.versions,
        receipt=receipt,
    )


def layers_of(states: Sequence[State]) -> int:
    """How many layers keep a cache: a layer may keep several, and what has no number is one for each pair it keeps."""
    keepers = [state.module.split(".") for state in states if state.kind == "key"]
    numbers = [next((at for at, part in enumerate(path) if part.isdigit()), None) for path in keepers]
    layers = {tuple(path[: at + 1]) for path, at in zip(keepers, numbers, strict=True) if at is not None}
    return len(layers) + numbers.count(None)


def versions() -> dict[str, str]:
    """Of this package and of those that decide what it writes."""
    return {package: version(package) for package in _PACKAGES}


def write_report(report: Report, path: Path) -> Path:
    path.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    return path


def _peak_memory() -> int:
    """Peak resident memory of this process and of the largest that it waited for, bytes (Linux reports kilobytes)."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(each).ru_maxrss for each in who) * 1024
