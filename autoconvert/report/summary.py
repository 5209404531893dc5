"""What a conversion says when it is done: what it wrote, what it found, and what to do next."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.text import Text

from autoconvert.report.report import CheckResult, Report

_WIDTH = 12
_RUN_CHECKS = ("file in the interpreter", "bundle in the runtime")


def summary(report: Report, files: Mapping[str, Path], *, verbose: bool = False) -> Iterator[Text]:
    """The lines about a finished conversion, `files` by format; `verbose` adds what was found on the way."""
    yield Text()
    for path in files.values():
        yield Text.assemble((str(path), "bold"), f"  {_size(path.stat().st_size)}")
    yield Text()
    yield _row("model", f"{report.model}: {report.layers} layers with a cache, {_counts(report.blocks)}")
    yield _row(
        "context", f"{report.settings['context']} positions, prefilled {_lengths(report.settings['prefill'])}"
    )
    yield _row(
        "weights", ", ".join(f"{_size(size)} {dtype}" for dtype, size in report.bytes_by_dtype.items())
    )
    yield _row("checkpoint", _checkpoint(report))
    yield from _checks(report)
    yield _row("took", f"{report.seconds:.1f} s, at most {_size(report.peak_memory)} of memory")
    if verbose:
        yield from _details(report)
    if "litertlm" in files:
        yield Text()
        command = f'autoconvert run {shlex.quote(str(files["litertlm"]))} --prompt "In the beginning"'
        yield Text.assemble(("Next: ", "bold"), command)


def _checks(report: Report) -> Iterator[Text]:
    for check in report.checks:
        yield _row("check", f"{'✓' if check.passed else '✗'} {check.name}: {check.detail}")
    if missing := _missing_check(report.settings["verify"], report.checks):
        yield _row("check", missing)


def _missing_check(verify: str, checks: Sequence[CheckResult]) -> str:
    """What a person may think was checked and was not."""
    if verify == "off":
        return "nothing was compared with the model (--verify off)"
    if any(check.name in _RUN_CHECKS for check in checks):
        return ""
    return "the file was not run, because it is large; --verify full runs it"


def _details(report: Report) -> Iterator[Text]:
    yield from _section(
        "Patterns that matched", (f"{count:>5}  {name}" for name, count in report.patterns.items())
    )
    yield from _section(
        "Patterns that nearly matched",
        (
            f"{miss['pattern']} at {miss['node']}, {miss['matched']} of {miss['of']} operations: {miss['reason']}"
            for miss in report.near_misses
        ),
    )
    yield from _section(
        "Signatures",
        (
            f"{signature['name']}: {_names(signature['inputs'])} → {_names(signature['outputs'])}"
            for signature in report.signatures
        ),
    )
    yield from _section(
        "Tensors of the checkpoint that are not stored",
        (
            f"{row['status']}: {row['name']} ({_size(row['nbytes'])}), {row['reason']}"
            for row in report.checkpoint
            if row["status"] != "used"
        ),
    )
    yield from _section("Versions", (f"{name} {version}" for name, version in report.versions.items()))


def _section(title: str, lines: Iterator[str]) -> Iterator[Text]:
    yield Text()
    yield Text(title, style="bold")
    for line in list(lines) or ["none"]:
        yield Text(f"  {line}")


def _row(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<{_WIDTH}}", "cyan"), text)


def _counts(blocks: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {block.replace('_', '-')}" for block, count in blocks.items())


def _lengths(prefill: Sequence[int]) -> str:
    return f"{' or '.join(map(str, prefill))} at a time"


def _checkpoint(report: Report) -> str:
    """Tensors used and left out; of what is left out, the reasons with their counts."""
    left_out = [row for row in report.checkpoint if row["status"] == "left out"]
    kept = len(report.checkpoint) - len(left_out)
    if not left_out:
        return f"all {kept} tensors used"
    size = _size(sum(row["nbytes"] for row in left_out))
    return f"{kept} tensors used, {len(left_out)} left out ({size}): {left_out[0]['reason']}"


def _names(names: Sequence[str]) -> str:
    """States come by the dozen and say nothing one by one."""
    others = [name for name in names if not name.startswith("kv_cache_")]
    states = len(names) - len(others)
    return ", ".join([*others, f"{states} caches"] if states else others)


def _size(size: int) -> str:
    """Bytes as people write them: 1 MB is 10⁶."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
