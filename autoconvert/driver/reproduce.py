"""A failed check made again, from the folder that it has left: on another machine, without the model's weights."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autoconvert.driver.compile import Stages
from autoconvert.driver.convert import read_source
from autoconvert.driver.convert_source import attempt
from autoconvert.driver.failure import MODEL, Asked, Failure, Fault, read_failure, versions_of
from autoconvert.driver.library import libraries
from autoconvert.errors import InputError, MachineError
from autoconvert.quantization.recipe import Recipe
from autoconvert.report.progress import Display, Silent, Stage, Timeline
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.likeness import likeness_in
from autoconvert.source.source import Source
from autoconvert.system.output import expanded


@dataclass(frozen=True)
class Reproduction:
    """What was found `before` and `now`, None where nothing fails any more; `versions` that are others now."""

    before: Fault
    now: Fault | None
    versions: Mapping[str, tuple[str, str]]

    @property
    def fails_as_before(self) -> bool:
        return self.now is not None and self.now.is_like(self.before)


def reproduce(
    folder: str | Path,
    model: str | Path | nn.Module | None = None,
    *,
    quantize: Recipe | None = None,
    patterns: Sequence[Pattern] = (),
    token: str | None = None,
    trust_remote_code: bool = False,
    dump: str | Path | None = None,
    display: Display | None = None,
    stages: Stages | None = None,
) -> Reproduction:
    """Converts again what has left `folder`, with random weights where they do, and says how it ends.

    With `model`, named as for `convert`, that one's weights are read. `quantize` and `patterns` are objects of Python
    that it was converted with, which no folder holds. Nothing stays but the `dump`.

    Raises:
        InputError: `folder` is no such folder; it runs code and is not trusted; something must be handed over.
        Refused: the model is not converted so far any more.
        MachineError: disk, memory, access or network.
    """
    place = expanded(folder)
    failure = read_failure(place)
    if failure.runs_code and not trust_remote_code:
        raise InputError(
            f"{place}: what makes it fail again runs Python code that lies in the folder",
            hint="Read that code, then pass --trust-remote-code (trust_remote_code=True) to run it.",
        )
    _require_by_hand(failure, quantize, patterns)
    timeline = Timeline(display or Silent())
    outside = libraries([*(place / file for file in failure.patterns), *patterns])
    options = failure.options if quantize is None else {**failure.options, "quantize": quantize}
    with timeline.stage("read model") as stage:
        source = _source(failure, place, model, stage, token)
    try:
        work = tempfile.TemporaryDirectory(prefix="autoconvert-")
    except OSError as error:
        hint = "Set TMPDIR to a folder with as much room as the files."
        raise MachineError(f"no temporary folder for the files: {error.strerror}", hint=hint) from error
    with work as output:
        asked, written = Asked(source.module, **options), None if dump is None else expanded(dump)
        now = attempt(source, asked, outside, Path(output), stages=stages, display=timeline.display, dump=written)
    return Reproduction(failure.fault, now, _other_versions(failure))


def _require_by_hand(failure: Failure, quantize: Recipe | None, patterns: Sequence[Pattern]) -> None:
    given = {"quantize": quantize is not None, "patterns": bool(patterns)}
    if missing := [name for name in failure.by_hand if not given.get(name)]:
        raise InputError(
            f"It was converted with objects of Python, which no folder holds: {', '.join(missing)}",
            hint=f"In Python: autoconvert.reproduce(FOLDER, {', '.join(f'{name}=…' for name in missing)}).",
        )


def _source(
    failure: Failure, place: Path, model: str | Path | nn.Module | None, stage: Stage, token: str | None
) -> Source:
    trusts_code, allow_pickle = (bool(failure.options[name]) for name in ("trust_remote_code", "allow_pickle"))
    if model is not None:
        return read_source(model, stage, None, token, trusts_code, allow_pickle)
    if failure.needs_model and failure.model is None:
        raise InputError(
            f"The model is needed, which was a module in memory: {failure.needs_model}",
            hint="Name the folder of a model that save_pretrained wrote, or in Python "
            "autoconvert.reproduce(FOLDER, module).",
        )
    if failure.model is not None:
        return read_source(failure.model, stage, failure.revision, token, trusts_code, allow_pickle)
    stage.note = "random weights"
    return likeness_in(place / MODEL, failure.name, trusts_code)


def _other_versions(failure: Failure) -> dict[str, tuple[str, str]]:
    """What is of another version here: by its name, the one then and the one now."""
    here = versions_of(failure.versions)
    return {name: (then, here[name]) for name, then in failure.versions.items() if here[name] != then}
