"""A source that is ready becomes files: it is compiled, or was, then linked and bundled, each step checked."""

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoconvert.check.expected import Expected
from autoconvert.driver.cache import key_of
from autoconvert.driver.cache import load as load_compiled
from autoconvert.driver.cache import store as store_compiled
from autoconvert.driver.compilation import Compilation
from autoconvert.driver.compile import Stages, compile_model
from autoconvert.driver.failure import Asked, Fault, fault_of
from autoconvert.driver.graded_text import text_to_grade
from autoconvert.driver.library import Library, in_order
from autoconvert.driver.link_and_check import LinkAndCheck, reading_plan
from autoconvert.driver.mix import Measured, of_grade, of_size
from autoconvert.driver.needs import why_not_run
from autoconvert.driver.ready import Ready, ready
from autoconvert.driver.receipts import Receipts
from autoconvert.driver.settings import Settings
from autoconvert.errors import CheckFailed
from autoconvert.lowering.compiled import Compiled
from autoconvert.report.progress import Display, Timeline
from autoconvert.report.report import Report
from autoconvert.report.summary import summary
from autoconvert.source.file_state import identity_of, require_unchanged
from autoconvert.source.source import Source
from autoconvert.system.hashing import hashing
from autoconvert.system.output import expanded, output_folder
from autoconvert.system.threads import threads

if TYPE_CHECKING:
    from autoconvert.dump.dump import Dump


# The device rounds a little else: a mixture aims at so much of the divergence that is allowed.
_AIMED = 0.95


@dataclass(frozen=True)
class Bundle:
    """What a conversion wrote: `files` by format, and the report. As text it is what the command says at its end."""

    folder: Path
    files: dict[str, Path]
    report: Report

    def __str__(self) -> str:
        return "\n".join(line.plain for line in summary(self.report, self.files)).strip()


def converted(
    ready: Ready,
    outside: Sequence[Library],
    target: Path,
    timeline: Timeline,
    stages: Stages | None,
    *,
    cache: bool,
    dump: str | Path | None,
) -> Bundle:
    """What `convert` writes into `target`; `outside` are the patterns from outside."""
    source, settings, tokenizer = ready.source, ready.settings, ready.tokenizer
    with (
        dump_of(source, dump, outside) as dumped,
        output_folder(target) as (folder, publish),
        hashing() as hasher,
    ):
        # The checkpoint is hashed while it is read ahead, and Python traces the model.
        receipts = Receipts(source, hasher)
        expected = Expected(source)
        settings = _mixed(ready, expected, timeline)
        # What a test has changed must neither be kept nor replaced by what was kept.
        key = key_of(source, settings, outside) if cache and (stages is None or stages.only_watch) else None
        compilation = _compilation(ready, timeline, stages or Stages(), key, outside, dumped, expected)
        compiled = compilation.compiled
        settings = dataclasses.replace(
            settings,
            context=min(settings.context, compiled.capacity),
            prefill=compiled.prefill,
            why_fixed=compiled.why_fixed,
        )
        bundled = stages.before_bundle(tokenizer) if tokenizer is not None and stages is not None else tokenizer
        conversion = LinkAndCheck(
            source,
            settings,
            ready.needs,
            ready.grading,
            tokenizer,
            bundled,
            timeline,
            folder,
            stages or Stages(),
            outside,
            expected,
            receipts,
            dumped,
        )
        files, report = conversion.run(compilation)
        require_unchanged(source.files)
        return Bundle(publish.folder, publish(files), report)


def _mixed(ready: Ready, expected: Expected, timeline: Timeline) -> Settings:
    """The settings, with encodings mixed for the grade or the size that is asked for."""
    settings, grading, tokenizer = ready.settings, ready.grading, ready.tokenizer
    if tokenizer is None or (grading.max_kl is None and grading.target_size is None):
        return settings
    with timeline.stage("mix") as stage:
        tokens = text_to_grade(ready.source, tokenizer, grading, settings)
        measured = Measured(ready.source, tokens, expected.of_text(tokens), stage.advance)
        recipe = settings.quantize
        if grading.target_size is not None:
            recipe = of_size(measured, settings, grading.target_size)
        if grading.max_kl is not None and grading.target_size is None:
            recipe = of_grade(measured, recipe, grading.max_kl * _AIMED)
        stage.note = recipe.name
    return dataclasses.replace(settings, quantize=recipe)


def attempt(
    source: Source,
    asked: Asked,
    outside: Sequence[Library],
    output: Path,
    *,
    stages: Stages | None,
    display: Display,
    dump: Path | None,
) -> Fault | None:
    """Converts `source` into `output` as was `asked` and gives the fault that a check finds, None where none does."""
    timeline = Timeline(display)
    try:
        converted(ready(source, asked), outside, output, timeline, stages, cache=False, dump=dump)
    except CheckFailed as failure:
        return fault_of(failure, timeline.failed)
    return None


def dump_of(
    source: Source, folder: str | Path | None, outside: Sequence[Library]
) -> "AbstractContextManager[Dump | None]":
    """The dump that is written into `folder`, where one is asked for."""
    if folder is None:
        return nullcontext()
    # What writes dumps takes half a second to import.
    from autoconvert.dump.dump import dump_to

    sizes = {name: tensor.nbytes for name, tensor in source.module.state_dict().items()}
    return dump_to(expanded(folder), source.name, sizes, {pattern.name: pattern for pattern in in_order(outside)})


def _compilation(
    ready: Ready,
    timeline: Timeline,
    stages: Stages,
    key: str | None,
    outside: Sequence[Library],
    dump: "Dump | None",
    expected: Expected,
) -> Compilation:
    """What the source compiles to, from the cache if it has that and nobody wants to see how."""
    source, settings = ready.source, ready.settings
    if key is not None and dump is None and (kept := load_compiled(key)) is not None:
        with timeline.stage("reuse") as stage:
            stage.note = f"compiled before: {', '.join(kept.compiled.graphs)}"
        return kept.reused(identity_of(source.files))

    def run_source(compiled: Compiled) -> None:
        if settings.verify != "off" and not why_not_run(ready.needs.scratch):
            # The other core lowers.
            with timeline.stage("run model"), threads(1):
                expected.prepare(reading_plan(source, settings, compiled).all)

    compilation = compile_model(source, settings, timeline, stages, in_order(outside), dump, run_source)
    # Only what was checked is kept.
    if key is not None and settings.verify != "off":
        store_compiled(key, dataclasses.replace(compilation, weights=identity_of(source.files)))
    return compilation
