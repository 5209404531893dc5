"""A conversion from end to end: a source is compiled, or was, then linked and bundled, each step checked."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from autoconvert.check.bundle import SAME_CONSTANTS, SAME_NUMBERS, Spoken, check_bundle, spoken
from autoconvert.check.constants import check_constants
from autoconvert.check.deployment import check_linked_file
from autoconvert.check.expected import Expected
from autoconvert.check.plan import Plan, is_cheap, plan
from autoconvert.driver.cache import key_of
from autoconvert.driver.cache import load as load_compiled
from autoconvert.driver.cache import store as store_compiled
from autoconvert.driver.compilation import Compilation
from autoconvert.driver.compile import Stages, compile_model
from autoconvert.driver.failure import Asked, Fault, fault_of
from autoconvert.driver.keep_failure import Failed, keep_failure
from autoconvert.driver.library import Library, in_order, libraries
from autoconvert.driver.localize import localized
from autoconvert.driver.needs import needs_of, why_not_run
from autoconvert.driver.ready import REPORT, refuse_what_cannot_be_written, target_folder, tokenizer_of
from autoconvert.driver.receipts import Receipts
from autoconvert.driver.settings import Settings, as_data, choose
from autoconvert.errors import CheckFailed
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.link import Linked, link
from autoconvert.packaging.litertlm import write_bundle
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.receipt import room_for
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.quantization.choices import DEFAULT
from autoconvert.quantization.recipe import Recipe
from autoconvert.report.check_result import BUNDLE, CONSTANTS, FILE, CheckResult
from autoconvert.report.progress import Display, Silent, Stage, Timeline
from autoconvert.report.readable import readable_size
from autoconvert.report.report import Report, make_report, write_report
from autoconvert.rewrite.pattern import Pattern
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.runner import start_file
from autoconvert.source.accounting import account
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
        conversion = _Conversion(
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
                expected.prepare(_plan(source, settings, compiled).all)

    compilation = compile_model(source, settings, timeline, stages, in_order(outside), dump, run_source)
    # Only what was checked is kept.
    if key is not None and settings.verify != "off":
        store_compiled(key, dataclasses.replace(compilation, weights=identity_of(source.files)))
    return compilation


def _plan(source: Source, settings: Settings, compiled: Compiled) -> Plan:
    """What the check of the file reads."""
    context = min(settings.context, compiled.capacity)
    return plan(compiled, context, source.parameters, thorough=settings.verify == "full")


@dataclass
class _Conversion:
    """One conversion under way; each method is a stage and writes into `folder`.

    `tokenizer` is the source's, `bundled` is written: the same one, but for a test.
    """

    source: Source
    settings: Settings
    tokenizer: TokenizerSpec | None
    bundled: TokenizerSpec | None
    timeline: Timeline
    folder: Path
    stages: Stages
    patterns: Sequence[Pattern]
    expected: Expected
    receipts: Receipts
    dump: "Dump | None" = None
    checks: list[CheckResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.dump is not None:
            self.checks = self.dump.checks

    def run(self, compilation: Compilation) -> tuple[dict[str, Path], Report]:
        compiled = compilation.compiled
        rows = account(self.source, compiled.sources)
        linked = self._link(compiled)
        self.receipts.hash_model(linked.path)
        files = {"tflite": linked.path}
        prompts: list[Spoken] = []
        if self.settings.verify != "off":
            self.checks.extend(compilation.checks)
            self._check_constants(linked, compiled)
            reason = why_not_run(needs_of(self.source, self.settings))
            if reason:
                self.checks.append(CheckResult(FILE, False, reason))
            else:
                prompts = self._check_file(linked, compiled)
        if self.tokenizer is not None and self.bundled is not None:
            draft = self.receipts.drafted(self.settings, rows, self.checks)
            files["litertlm"] = self._bundle(linked, compiled, self.bundled, room_for(draft))
            if prompts:
                self._check_bundle(files["litertlm"], self.tokenizer, prompts)
        receipt = self.receipts.written(self.settings, rows, self.checks, linked.size, files.get("litertlm"))
        files = {name: file for name, file in files.items() if name in self.settings.formats}
        report = make_report(
            self.source.name,
            as_data(self.settings),
            compiled.fusion,
            compiled.states,
            linked,
            rows,
            files,
            self.timeline.stages,
            self.checks,
            (*self.source.notes, *(self.tokenizer.notes if self.tokenizer else ())),
            receipt,
        )
        files["report"] = write_report(report, self.folder / REPORT)
        return files, report

    def _link(self, compiled: Compiled) -> Linked:
        with self.timeline.stage("link") as stage:
            linked = link(
                list(compiled.graphs.values()),
                compiled.weights,
                self.source.weights,
                self.settings.quantize,
                self.folder / "model.tflite",
                progress=stage.advance,
            )
            stage.note = f"{readable_size(linked.size)}, {self.settings.quantize.name}"
        self.stages.after_link(linked.path)
        if self.dump is not None:
            self.dump.linked(linked.tensors)
        return linked

    def _check_constants(self, linked: Linked, compiled: Compiled) -> None:
        with self.timeline.stage("check constants") as stage:
            checked = check_constants(
                linked.path,
                compiled.weights,
                self.source.weights,
                self.settings.quantize,
                compiled.graphs.values(),
            )
            stage.note = f"{checked.constants} tensors, {checked.numbers:,} numbers read back"
            self.checks.append(CheckResult(CONSTANTS, True, stage.note))

    def _check_file(self, linked: Linked, compiled: Compiled) -> list[Spoken]:
        """Runs the file, and gives what it says of the prompts that the bundle is then asked."""
        try:
            return self._run_file(linked, compiled)
        except CheckFailed as failure:
            with self.timeline.stage("find the fault") as stage:
                found = localized(failure, self.source, compiled, self.stages, self.patterns)
                stage.note = ", ".join(filter(None, (found.blamed, found.at))) or "in no pass"
            raise found from failure

    @contextmanager
    def _runs(self, what: str) -> Iterator[None]:
        """What the runtime refuses or dies of is a failed check: it was written here."""
        try:
            yield
        except RuntimeFailed as failure:
            hint = f"{what} must not be used. Please report this with the model's config."
            raise CheckFailed(failure.message, hint=hint) from failure

    def _run_file(self, linked: Linked, compiled: Compiled) -> list[Spoken]:
        with (
            self._runs("The file"),
            self.timeline.stage("check file") as stage,
            start_file(linked.path) as start,
        ):
            found = check_linked_file(
                linked.path,
                start,
                compiled,
                _plan(self.source, self.settings, compiled),
                self.source.weights,
                self.settings.quantize,
                self.expected,
            )
            stage.note = str(found)
            self.checks.append(CheckResult(FILE, True, stage.note))
            if self.tokenizer is None:
                return []
            context = self.settings.context
            thorough = self.settings.verify == "full" or is_cheap(self.source.parameters, context)
            return spoken(start(), context, self.tokenizer, thorough=thorough)

    def _bundle(self, linked: Linked, compiled: Compiled, tokenizer: TokenizerSpec, receipt_room: int) -> Path:
        with self.timeline.stage("bundle") as stage:
            path = self.folder / "model.litertlm"
            write_bundle(
                linked.path,
                linked.digest,
                tokenizer.section,
                build_llm_metadata(tokenizer, self.settings.context),
                build_executor_metadata(compiled.states, self.settings.context, CPU),
                path,
                CPU.section,
                consume="tflite" not in self.settings.formats,
                receipt_room=receipt_room,
            )
            stage.note = readable_size(path.stat().st_size)
        return path

    def _check_bundle(self, bundle: Path, tokenizer: TokenizerSpec, prompts: Sequence[Spoken]) -> None:
        with self._runs("The bundle"), self.timeline.stage("check bundle") as stage:
            tolerance = SAME_NUMBERS if self.settings.quantize.exact else SAME_CONSTANTS
            room = self.settings.context - 2 * min(self.settings.prefill)
            stage.note = str(check_bundle(bundle, tokenizer, prompts, room=room, tolerance=tolerance))
            self.checks.append(CheckResult(BUNDLE, True, stage.note))
