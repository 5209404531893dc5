"""What a failed check leaves: a folder by which one command makes it fail again, elsewhere and without the weights.

Whether random weights will do is tried, in about the time that the conversion itself took.
"""

import ast
import json
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autoconvert.driver.compile import Stages
from autoconvert.driver.convert_source import attempt
from autoconvert.driver.failure import MODEL, Asked, Failure, Fault, fault_of, is_ours, versions_of, write_failure
from autoconvert.driver.failure_page import CODE, GRAPH, PAGE, PATTERNS, command, page
from autoconvert.driver.imports import file_of, files_named, version_of
from autoconvert.driver.library import Library
from autoconvert.dump.manifest import MANIFEST as DUMPED
from autoconvert.errors import AutoconvertError, CheckFailed
from autoconvert.quantization.recipe import Recipe
from autoconvert.report.progress import Stage, Timeline
from autoconvert.report.report import versions
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.hub import SMALL_FILES
from autoconvert.source.likeness import likeness_in, write_likeness
from autoconvert.source.source import DEMO, Source
from autoconvert.system.memory import give_back
from autoconvert.system.output import expanded, output_folder

_SUFFIX = "-failure"
_CONFIGS = ("config.json", "generation_config.json")
# What lists where weights lie.
_INDEX = ".index.json"
# Seconds that an attempt may always take: a conversion that found its graphs in the cache fails sooner.
_SHORTEST = 60.0
_AFTER_THE_PASSES = "lower"


@dataclass(frozen=True)
class Failed:
    """A conversion that has failed after `seconds`; `target` is where its files would have gone."""

    failure: CheckFailed
    source: Source
    asked: Asked
    outside: Sequence[Library]
    stages: Stages | None
    target: Path
    seconds: float


def keep_failure(failed: Failed, timeline: Timeline) -> None:
    """Leaves a folder beside `failed.target`; the failure names it, or says in its hint why there is none."""
    failure = failed.failure
    fault = fault_of(failure, timeline.failed)
    _forget_values(failure)
    try:
        final = _free_name(failed.target)
        with timeline.stage("reproduce") as stage:
            with _published(final) as (folder, work):
                kept = _Keeping(failed, fault, folder, work, stage).run()
            stage.note = "needs the model" if kept.needs_model else "fails with random weights too"
        failure.folder = final
        weights = "with the model" if kept.needs_model else "without the model's weights"
        said = f"{final} makes it fail again, {weights}: {command(final, kept)}"
    except Exception as error:
        reason = error.message if isinstance(error, AutoconvertError) else f"{type(error).__name__}: {error}"
        said = f"The folder that makes it fail again could not be written: {reason}"
    failure.hint = "\n".join(filter(None, (failure.hint, said)))


def _forget_values(error: BaseException | None) -> None:
    """A traceback keeps what every function had: models, graphs and files, which the attempt needs the room of."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    give_back()


def _free_name(target: Path) -> Path:
    """NAME-failure beside `target`, or a number behind it where that is somebody else's."""
    target = target if target.name.strip(".") else target.resolve()
    first = target.parent / f"{target.name or 'model'}{_SUFFIX}"
    number, name = 1, first
    while (name.exists() or name.is_symlink()) and not is_ours(name):
        number += 1
        name = first.with_name(f"{first.name}-{number}")
    return name


@contextmanager
def _published(final: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that lies at `final` when the block ends well, replacing one of ours, and one to work in."""
    with output_folder(final.parent) as (work, _):
        folder, before = work / "failure", work / "before"
        folder.mkdir()
        yield folder, work
        if final.exists():
            final.rename(before)
        try:
            folder.rename(final)
        except OSError:
            if before.exists():
                before.rename(final)
            raise


class _OutOfTime(Exception):
    """An attempt took longer than it may, or came as far as it should."""


@dataclass
class _Watch:
    """A display that ends an attempt `until` a time or before the stage `last`, and tells `stage` how far it is."""

    stage: Stage
    until: float
    stages: int
    last: str = ""
    done: int = 0

    def started(self, stage: str) -> None:
        self._end_in_time()
        if stage == self.last:
            raise _OutOfTime

    def advanced(self, stage: str, done: int, total: int) -> None:
        self._end_in_time()

    def finished(self, stage: str, seconds: float, note: str) -> None:
        self.done += 1
        self.stage.advance(min(self.done, self.stages), self.stages)

    def failed(self, stage: str) -> None: ...

    def _end_in_time(self) -> None:
        if time.monotonic() > self.until:
            raise _OutOfTime


@dataclass
class _Keeping:
    """Writes what is needed into `folder`; `work` is for what is not kept."""

    failed: Failed
    fault: Fault
    folder: Path
    work: Path
    stage: Stage

    def run(self) -> Failure:
        failed, asked = self.failed, self.failed.asked
        self._write_model()
        patterns = self._write_patterns()
        needs_model = self._why_not_random()
        self._write_graphs()
        model, revision = _original(asked, failed.source) if needs_model else (None, None)
        by_hand = [
            *(["quantize"] if isinstance(asked.quantize, Recipe) else []),
            *(["patterns"] if any(isinstance(each, Pattern) for each in asked.patterns) else []),
        ]
        failure = Failure(
            fault=self.fault,
            name=failed.source.name,
            options={
                "quantize": asked.quantize.name if isinstance(asked.quantize, Recipe) else asked.quantize,
                "context": asked.context,
                "prefill": None if asked.prefill is None else list(asked.prefill),
                "formats": list(asked.formats),
                "verify": asked.verify,
                "trust_remote_code": asked.trust_remote_code,
                "allow_pickle": asked.allow_pickle,
            },
            patterns=patterns,
            needs_model=needs_model,
            model=model,
            revision=revision,
            by_hand=tuple(by_hand),
            versions=_versions(asked, failed.outside),
        )
        write_failure(failure, self.folder)
        files = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())
        (self.folder / PAGE).write_text(page(failure, files), encoding="utf-8")
        return failure

    def _write_model(self) -> None:
        """Configuration and tokenizer as they lie with the model, and its code."""
        source, folder = self.failed.source, self.folder / MODEL
        folder.mkdir()
        if source.folder is not None:
            bundled = "litertlm" in self.failed.asked.formats
            names = (*(SMALL_FILES if bundled else _CONFIGS), *(["*.py"] if source.trusts_code else []))
            for file in sorted({file for name in names for file in source.folder.glob(name)}):
                if file.is_file() and not file.name.endswith(_INDEX):
                    self._copy(file, folder / file.name)
            for code in sorted(folder.glob("*.py")):
                for table in files_named(ast.parse(code.read_bytes()), source.folder):
                    self._copy(table, folder / table.relative_to(source.folder))
        if not source.is_built:
            if source.config is not None:
                source.config.save_pretrained(folder)
            self._write_classes(source.module)

    def _write_classes(self, module: nn.Module) -> None:
        """The files of a module's own classes, to be read: nobody can say what else they need."""
        for name in sorted({type(part).__module__ for part in module.modules()}):
            file = file_of(name) if version_of(name) is None else None
            if file is not None and file.is_file():
                self._copy(file, self.folder / CODE / f"{name.replace('.', '/')}{file.suffix}")

    def _write_patterns(self) -> tuple[str, ...]:
        given = [expanded(each) for each in self.failed.asked.patterns if not isinstance(each, Pattern)]
        names = [f"{PATTERNS}/{index}/{file.name}" for index, file in enumerate(given, 1)]
        for file, name in zip(given, names, strict=True):
            self._copy(file, self.folder / name)
        return tuple(names)

    def _copy(self, file: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)

    def _why_not_random(self) -> str:
        """Why it does not fail so with random weights; "" where it does. Leaves a dump."""
        source, model = self.failed.source, self.folder / MODEL
        reason = "it has no configuration that transformers could build it by"
        if source.config is not None:
            try:
                reason = write_likeness(source, model)
            except AutoconvertError as error:
                reason = error.message
        if reason:
            # What no weight decides can be shown all the same.
            self._attempt(source, last=_AFTER_THE_PASSES)
            return f"the module cannot be built anywhere else: {reason}"
        return self._attempt(likeness_in(model, source.name, source.trusts_code))

    def _attempt(self, source: Source, last: str = "") -> str:
        failed = self.failed
        until = time.monotonic() + max(failed.seconds, _SHORTEST)
        watch = _Watch(self.stage, until, stages=12, last=last)
        output, dump = self.work / "output", self.work / "dump"
        try:
            found = attempt(
                source, failed.asked, failed.outside, output, stages=failed.stages, display=watch, dump=dump
            )
        except _OutOfTime:
            return "to try random weights would have taken longer than the conversion itself"
        except Exception as error:
            # Whatever random numbers make of the model's own code: then they do not do.
            return f"with random weights it ends otherwise: {type(error).__name__}: {error}"
        if found is None:
            return "with random weights nothing fails"
        return "" if found.is_like(self.fault) else f"with random weights another check fails: {found}"

    def _write_graphs(self) -> None:
        """The graphs before and after the pass that is to blame, as text."""
        dump = self.work / "dump"
        if (dump / DUMPED).is_file():
            for file in _around(self.fault, json.loads((dump / DUMPED).read_bytes())["passes"]):
                self._copy(dump / f"{file}.txt", self.folder / GRAPH / f"{file}.txt")


def _around(fault: Fault, passes: Sequence[dict[str, str | None]]) -> list[str]:
    """The files of a dump, without their ending, of the graphs before and after what `fault` blames.

    A rewrite that gives other numbers ends its pass, so that there is only the graph before it.
    """
    if not fault.blamed:
        return []
    index = next((index for index, step in enumerate(passes) if step["name"] == fault.blamed), len(passes))
    before = [step["file"] for step in passes[:index] if step["file"]]
    after = [step["file"] for step in passes[index : index + 1]]
    return [file for file in (*before[-1:], *after) if file]


def _original(asked: Asked, source: Source) -> tuple[str | None, str | None]:
    """What names the model on this machine, and of the hub's the very revision."""
    match source.origin.kind:
        case "module":
            return None, None
        case "folder" | "file":
            return str(expanded(str(asked.model)).absolute()), None
        case "demo":
            return DEMO, None
        case "hub":
            return str(asked.model), asked.revision or source.origin.revision


def _versions(asked: Asked, outside: Sequence[Library]) -> dict[str, str]:
    """Of all that a reproduction needs; packages that bring patterns are among it."""
    given = {str(expanded(each)) for each in asked.patterns if not isinstance(each, Pattern)}
    packages = (library.origin.rpartition(" ") for library in outside if library.origin not in given)
    brought = [name for name, _, number in packages if name and number[:1].isdigit()]
    return versions_of(["autoconvert", *versions(), *brought, "Python", "platform"])
