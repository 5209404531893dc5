"""What a conversion says when it is done: what it wrote, what it found, and what to do next."""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from autoconvert.report.check_result import CheckResult
from autoconvert.report.readable import readable_context, readable_size
from autoconvert.report.report import Report

_LABEL_WIDTH = 12


def summary(report: Report, files: Mapping[str, Path], *, verbose: bool = False) -> Iterator[Text]:
    """The lines about a finished conversion, `files` by format; `verbose` adds what was found on the way."""
    yield Text()
    for path in files.values():
        yield Text.assemble((str(path), "bold"), f"  {readable_size(path.stat().st_size)}")
    yield Text()
    yield labelled("model", f"{report.model}: {report.layers} layers with a cache, {block_counts(report.blocks)}")
    yield labelled("context", readable_context(report.settings))
    weights = [f"{readable_size(size)} {dtype}" for dtype, size in report.bytes_by_dtype.items()]
    yield labelled("weights", ", ".join(weights))
    if report.grade is not None:
        yield labelled("grade", str(report.grade))
    yield labelled("checkpoint", _checkpoint(report))
    if report.checks:
        yield labelled("checked", ", ".join(check.name for check in report.checks if check.passed))
    if missing := _not_checked(report.settings["verify"], report.checks):
        yield labelled("unchecked", missing)
    for number, note in enumerate(report.notes):
        yield labelled("" if number else "notes", note)
    yield labelled("took", f"{report.seconds:.1f} s, at most {readable_size(report.peak_memory)} of memory")
    if verbose:
        yield from _details(report)
    if "litertlm" in files:
        yield Text()
        command = f'autoconvert run {shlex.quote(str(files["litertlm"]))} --prompt "In the beginning"'
        yield Text.assemble(("Next: ", "bold"), command)


def _not_checked(verify: str, checks: Sequence[CheckResult]) -> str:
    """What a person may think was checked and was not."""
    if verify == "off":
        return "nothing was compared with the model: --verify off"
    return "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.passed)


def _checkpoint(report: Report) -> str:
    left_out = [row for row in report.checkpoint if row["status"] == "left out"]
    kept = len(report.checkpoint) - len(left_out)
    if not left_out:
        return f"all {kept} tensors used"
    return f"{kept} tensors used, {len(left_out)} left out ({readable_size(sum(row['nbytes'] for row in left_out))})"


def _details(report: Report) -> Iterator[Text]:
    found = (f"{count:>4}  {name}" for name, count in report.patterns.items())
    yield from _section("Patterns that matched", found)
    yield from _section("Patterns that nearly matched", map(_near_miss, report.near_misses))
    yield from _section("Checks", (f"{check.name}: {check.detail}" for check in report.checks))
    states = {state["name"] for state in report.states}
    yield from _section("Signatures", (_signature(signature, states) for signature in report.signatures))
    rows = (row for row in report.checkpoint if row["status"] != "used")
    yield from _section("Tensors of the checkpoint that are not stored", map(_tensor, rows))
    yield from _section("Versions", (f"{name} {version}" for name, version in report.versions.items()))


def _section(title: str, lines: Iterable[str]) -> Iterator[Text]:
    yield Text()
    yield Text(title, style="bold")
    for line in list(lines) or ["none"]:
        yield Text(f"  {line}")


def _near_miss(miss: Mapping[str, Any]) -> str:
    matched = f"{miss['matched']} of {miss['of']} operations"
    place = f"{miss['place']}: " if miss["place"] else ""
    return f"{miss['pattern']} at {miss['node']}, {matched}: {place}{miss['reason']}"


def _signature(signature: Mapping[str, Any], states: Collection[str]) -> str:
    return f"{signature['name']}: {_names(signature['inputs'], states)} → {_names(signature['outputs'], states)}"


def _names(names: Sequence[str], states: Collection[str]) -> str:
    """States come by the dozen and say nothing one by one."""
    others = [name for name in names if name not in states]
    kept = len(names) - len(others)
    return ", ".join([*others, f"{kept} caches"] if kept else others)


def _tensor(row: Mapping[str, Any]) -> str:
    return f"{row['status']}: {row['name']} ({readable_size(row['nbytes'])}), {row['reason']}"


def labelled(label: str, text: str) -> Text:
    """A line with a coloured label before it."""
    return Text.assemble((f"{label:<{_LABEL_WIDTH}}", "cyan"), text)


def block_counts(blocks: Mapping[str, int]) -> str:
    """Kinds of blocks with how many there are."""
    return ", ".join(f"{count} {block.replace('_', '-')}" for block, count in blocks.items())
