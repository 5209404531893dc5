"""What `autoconvert check` says: a line for each layer, and the verdict."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from autoconvert.check.verdict import LAYERS, Verdict

_STYLES = {"passed": "green", "failed": "bold red", "not checked": "yellow"}
_LAYER, _OUTCOME = max(map(len, LAYERS)) + 2, max(map(len, _STYLES)) + 2


def said_of(verdicts: Sequence[Verdict]) -> Iterator[Text]:
    """The lines about the layers of a file, and one about all of it."""
    for verdict in verdicts:
        outcome = (f"{verdict.outcome:{_OUTCOME}}", _STYLES[verdict.outcome])
        yield Text.assemble((f"{verdict.layer:{_LAYER}}", "bold"), outcome, verdict.detail)
    yield Text()
    failed, unknown = ([v.layer for v in verdicts if v.outcome == outcome] for outcome in ("failed", "not checked"))
    besides = f"; not checked: {', '.join(unknown)}" if unknown else ""
    if failed:
        yield Text(f"The file is not the model: {', '.join(failed)} failed{besides}", "bold red")
    elif len(unknown) == len(verdicts):
        yield Text("Nothing could be checked", "bold yellow")
    else:
        yield Text(f"The file is the model, as far as it was checked{besides}", "bold")
