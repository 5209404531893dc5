"""A conversion from end to end: a source is compiled, or was, then linked and bundled, each step checked."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from autoconvert.check.expected import Expected
from autoconvert.driver.cache import key_of
from autoconvert.driver.cache import load as load_compiled
from autoconvert.driver.cache import store as store_compiled
from autoconvert.driver.compilation import Compilation
from autoconvert.driver.compile import Stages, compile_model
from autoconvert.driver.failure import Asked, Fault, fault_of
from autoconvert.driver.keep_failure import Failed, keep_failure
from autoconvert.driver.library import Library, in_order, libraries
from autoconvert.driver.link_and_check import LinkAndCheck, reading_plan
from autoconvert.driver.needs import needs_of, why_not_run
from autoconvert.driver.ready import refuse_what_cannot_be_written, target_folder, tokenizer_of
from autoconvert.driver.receipts import Receipts
from autoconvert.driver.settings import Settings, choose
from autoconvert.errors import CheckFailed
from autoconvert.lowering.compiled import Compiled
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.quantization.choices import DEFAULT
from autoconvert.quantization.recipe import Recipe
from autoconvert.report.progress import Display, Silent, Stage, Timeline
from autoconvert.report.readable import readable_size
from autoconvert.report.report import Report
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.file_state import identity_of, require_unchanged
from autoconvert.source.read_ahead import read_ahead
from autoconvert.source.source import Source, load_source
from autoconvert.system.hashing import hashing
from autoconvert.system.memory import give_back
from autoconvert.system.output import expanded, output_folder
from autoconvert.system.threads import threads

if TYPE_CHECKING:
    from autoconvert.dump.dump import Dump


@dataclass(frozen=True)
class Bundle:
    """What a conversion wrote: `files` by format, and the report."""

    folder: Path
    files: dict[str, Path]
    report: Report


def convert(
    model: str | Path | nn.Module,
    output: str | Path | None = None,
    *,
    quantize: str | Recipe = DEFAULT,
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    formats: Sequence[str] = ("litertlm",),
    verify: str = "quick",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    cache: bool = True,
    patterns: Sequence[str | Path | Pattern] = (),
    dump: str | Path | None = None,
    display: Display | None = None,
    stages: Stages | None = None,
) -> Bundle:
    """Converts `model` ("demo", a folder, a hub id, or a module from tokens to logits) into `output` (./NAME).

    `quantize` names one of RECIPES, or is a recipe itself. With `cache`, what was compiled before for the same
    configuration and lengths is only linked. `patterns`, files or patterns themselves, are tried before those of
    installed packages and the built-in ones. With `dump`, a folder, all is compiled anew, and what every pass made lies
    there afterwards, also where the conversion ends in an error.

    A failed check leaves a folder beside `output`, the `folder` of the exception, by which `reproduce` makes it again.

    Raises:
        InputError: the model, its checkpoint, a pattern or the options are not usable.
        Refused: something in the model is not proven to convert.
        CheckFailed: the result differs from the model.
        MachineError: disk, memory, access or network.
    """
    begun = time.monotonic()
    timeline = Timeline(display or Silent())
    outside = libraries(patterns)
    asked = Asked(
        model,
        quantize,
        context,
        prefill,
        tuple(formats),
        verify,
        revision,
        trust_remote_code,
        allow_pickle,
        tuple(patterns),
    )
    with timeline.stage("read model") as stage:
        source = read_source(model, stage, revision, token, trust_remote_code, allow_pickle)
        settings = _settings(source, asked)
        tokenizer = tokenizer_of(source, settings)
        # Reading a tokenizer takes many times what stays of it.
        give_back()
    target = target_folder(source, output)
    refuse_what_cannot_be_written(needs_of(source, settings), settings, target)
    try:
        return _converted(source, settings, tokenizer, outside, target, timeline, stages, cache=cache, dump=dump)
    except CheckFailed as failure:
        seconds = time.monotonic() - begun
        keep_failure(Failed(failure, source, asked, outside, stages, target, seconds), timeline, attempt)
        raise


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
    settings = _settings(source, asked)
    tokenizer = tokenizer_of(source, settings)
    try:
        _converted(source, settings, tokenizer, outside, output, timeline, stages, cache=False, dump=dump)
    except CheckFailed as failure:
        return fault_of(failure, timeline.failed)
    return None


def _settings(source: Source, asked: Asked) -> Settings:
    return choose(
        source.config,
        context=asked.context,
        prefill=asked.prefill,
        quantize=asked.quantize,
        formats=asked.formats,
        verify=asked.verify,
    )


def _converted(
    source: Source,
    settings: Settings,
    tokenizer: TokenizerSpec | None,
    outside: Sequence[Library],
    target: Path,
    timeline: Timeline,
    stages: Stages | None,
    *,
    cache: bool,
    dump: str | Path | None,
) -> Bundle:
    with (
        dump_of(source, dump, outside) as dumped,
        output_folder(target) as (folder, publish),
        hashing() as hasher,
    ):
        # The checkpoint is hashed while it is read ahead, and Python traces the model.
        receipts = Receipts(source, hasher)
        # What a test has changed must neither be kept nor replaced by what was kept.
        key = key_of(source, settings, outside) if cache and stages is None else None
        expected = Expected(source)
        compilation = _compilation(source, settings, timeline, stages or Stages(), key, outside, dumped, expected)
        compiled = compilation.compiled
        settings = dataclasses.replace(
            settings, context=min(settings.context, compiled.capacity), prefill=compiled.prefill
        )
        bundled = stages.before_bundle(tokenizer) if tokenizer is not None and stages is not None else tokenizer
        conversion = LinkAndCheck(
            source,
            settings,
            tokenizer,
            bundled,
            timeline,
            folder,
            stages or Stages(),
            in_order(outside),
            expected,
            receipts,
            dumped,
        )
        files, report = conversion.run(compilation)
        require_unchanged(source.files)
        return Bundle(publish.folder, publish(files), report)


def read_source(
    model: str | Path | nn.Module,
    stage: Stage,
    revision: str | None,
    token: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> Source:
    """The source that `model` names, read while `stage` tells how far."""
    if not isinstance(model, nn.Module) and (folder := expanded(model)).is_dir():
        read_ahead(folder)
    source = load_source(
        model,
        revision=revision,
        token=token,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        progress=stage.advance,
    )
    stage.note = f"{len(source.checkpoint)} tensors, {readable_size(sum(source.checkpoint.values()))}"
    return source


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
    source: Source,
    settings: Settings,
    timeline: Timeline,
    stages: Stages,
    key: str | None,
    outside: Sequence[Library],
    dump: "Dump | None",
    expected: Expected,
) -> Compilation:
    """What `source` compiles to, from the cache if it has that and nobody wants to see how."""
    if key is not None and dump is None and (kept := load_compiled(key)) is not None:
        with timeline.stage("reuse") as stage:
            stage.note = f"compiled before: {', '.join(kept.compiled.graphs)}"
        return kept.reused(identity_of(source.files))

    def run_source(compiled: Compiled) -> None:
        if settings.verify != "off" and not why_not_run(needs_of(source, settings)):
            # The other core lowers.
            with timeline.stage("run model"), threads(1):
                expected.prepare(reading_plan(source, settings, compiled).all)

    compilation = compile_model(source, settings, timeline, stages, in_order(outside), dump, run_source)
    # Only what was checked is kept.
    if key is not None and settings.verify != "off":
        store_compiled(key, dataclasses.replace(compilation, weights=identity_of(source.files)))
    return compilation
