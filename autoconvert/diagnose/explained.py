"""What `autoconvert explain` says."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from autoconvert.diagnose.explanation import Declined, Explanation, Found, Line, Missing, Nearest, Unmatched
from autoconvert.report.summary import labelled

_KINDS = {"unknown": "unknown block"}
_NONE = "no pattern came near"


def explained_model(
    explanation: Explanation, model: str | None = None, file: str = "blocks.py", given: Sequence[str] = ()
) -> Iterator[Text]:
    """The lines about a model, each one line however wide the terminal is.

    `model` is as a command line names it, with the patterns that were looked for, or None where Python asks, with those
    of the files `given`; `file` could hold the next one.
    """
    verdict = "covered" if explanation.missing is None else "refused"
    style = "green" if explanation.missing is None else "bold red"
    yield Text.assemble(
        (explanation.model, "bold"), ": ", (verdict, style), f", with a context of {explanation.context}"
    )
    if explanation.found:
        yield from _section("Fused")
        for found in explanation.found:
            yield from _found(found, explanation.found)
    if explanation.unmatched:
        yield from _section("Matched nowhere")
        for unmatched in explanation.unmatched:
            yield from _unmatched(unmatched)
    if explanation.declined:
        yield from _section("Not fused: these stay plain operations, which is right, but slower on the device")
        for declined in explanation.declined:
            yield Text()
            yield from _declined(declined)
    if explanation.costs:
        yield from _section("Costs more than it must")
        for cost in explanation.costs:
            yield Text(f"  {cost}")
    if explanation.missing is not None:
        yield from _section("Missing")
        yield from _missing(explanation.missing)
    if explanation.region is not None:
        yield from _section("Next")
        call = (
            f"autoconvert explain {model} --scaffold {file}",
            f"autoconvert explain {model} --patterns {file}",
        )
        if model is None:
            before, both = (", ".join(f'"{name}"' for name in names) for names in (given, (*given, file)))
            known = f"patterns=[{before}], " if given else ""
            call = (
                f'autoconvert.explain(model, {known}scaffold="{file}")',
                f"autoconvert.explain(model, patterns=[{both}])",
            )
        yield Text(f"  {call[0]}   writes the beginning of a pattern for it")
        yield Text(f"  {call[1]}   says what became of it, once it is finished")


def _section(title: str) -> Iterator[Text]:
    yield Text()
    yield Text(title, style="bold")


def _found(found: Found, others: Sequence[Found]) -> Iterator[Text]:
    width = max(len(other.pattern) for other in others)
    yield Text.assemble(f"  {found.count:>4}  ", (f"{found.pattern:<{width}}", "green"), f"  {found.source}")
    for module in found.modules:
        yield Text(f"        {module}", style="dim")


def _unmatched(unmatched: Unmatched) -> Iterator[Text]:
    yield Text.assemble("        ", (unmatched.pattern, "yellow"), f"  {unmatched.source}")
    if unmatched.nearest is None:
        yield _labelled("nearest", "the model has no operation like its last one")
    else:
        yield _labelled("nearest", f"{unmatched.nearest.matched} of {unmatched.nearest.of} operations")
        yield from _difference(unmatched.nearest)


def _declined(declined: Declined) -> Iterator[Text]:
    kind = _KINDS.get(declined.kind, declined.kind.replace("_", "-"))
    where = f" in {', '.join(declined.modules)}" if declined.modules else ""
    yield Text.assemble(f"  {declined.count:>4}  ", (kind, "yellow"), where)
    if declined.line is not None:
        yield _row("written", declined.line)
    yield _labelled("operations", ", ".join(declined.operations))
    if not declined.nearest:
        yield _labelled("nearest", _NONE)
    for nearest in declined.nearest:
        yield from _nearest(nearest)


def _nearest(nearest: Nearest) -> Iterator[Text]:
    yield _labelled("nearest", f"{nearest.pattern} ({nearest.source}), {nearest.matched} of {nearest.of} operations")
    yield from _difference(nearest)


def _difference(nearest: Nearest) -> Iterator[Text]:
    if nearest.operation is None:
        yield _labelled("declined", nearest.reason)
        return
    yield _labelled("differs", f"{nearest.operation}: {nearest.reason}")
    if nearest.line is not None:
        yield _row("", nearest.line)


def _missing(missing: Missing) -> Iterator[Text]:
    for line in missing.message.splitlines():
        yield Text(f"  {line}", style="red")
    if missing.excerpt and missing.line is not None:
        yield Text()
        yield Text(f"  {missing.line.place} in {missing.module}" if missing.module else f"  {missing.line.place}")
        at = int(missing.line.place.rpartition(":")[2])
        for number, text in missing.excerpt:
            mark = ">" if number == at else " "
            yield Text(f"  {mark} {number:>5}  {text}", style="bold" if number == at else "dim")
    if missing.block is not None:
        yield Text()
        yield from _declined(missing.block)


def _row(label: str, line: Line) -> Text:
    return _labelled(label, f"{line.place}: {line.text}")


def _labelled(label: str, text: str) -> Text:
    return Text("        ") + labelled(label, text)
