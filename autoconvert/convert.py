"""A conversion from end to end: source, trace, passes, lowering, linking, bundling, each checked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from autoconvert.check.constants import check_constants
from autoconvert.check.deployment import check_bundle_file, check_linked_file
from autoconvert.check.graph import check_graph
from autoconvert.check.parity import reference_of
from autoconvert.check.region import RegionCheck
from autoconvert.errors import InputError
from autoconvert.lowering.link import Linked, link
from autoconvert.lowering.litert import lower
from autoconvert.lowering.litertlm import write_bundle
from autoconvert.lowering.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.lowering.tokenizer import TokenizerSpec, read_tokenizer
from autoconvert.lowering.worker import start_worker
from autoconvert.output import output_folder
from autoconvert.patterns import PATTERNS
from autoconvert.pipeline import PASSES, Options, Pass, rewrite, rewrite_at_most, signatures
from autoconvert.program import Program
from autoconvert.recurrences.recurrence import unrolls
from autoconvert.report.progress import Display, Silent, Timeline
from autoconvert.report.report import CheckResult, Report, make_report, write_report
from autoconvert.settings import Settings, at_context, choose, for_unrolled
from autoconvert.source.accounting import Row, account
from autoconvert.source.source import Source, load_source

# Above this size the file and the bundle are run only by `--verify full`: the engine takes gigabytes.
_QUICK_FILE = 300 << 20
# From this size of checkpoint on, a second process pays for its start.
_LARGE_MODEL = 300 << 20

Lowered = Callable[[], bytes]


@dataclass(frozen=True)
class Bundle:
    """What a conversion wrote: `files` by format, and the report."""

    folder: Path
    files: dict[str, Path]
    report: Report


@dataclass(frozen=True)
class Stages:
    """The replaceable parts of a conversion, so that a test can put a fault into one of them."""

    passes: Sequence[Pass] = PASSES
    before_lower: Callable[[Program], Program] = lambda program: program
    before_bundle: Callable[[TokenizerSpec], TokenizerSpec] = lambda tokenizer: tokenizer


def convert(
    model: str | Path | nn.Module,
    output: str | Path | None = None,
    *,
    quantize: str = "int8",
    context: int | None = None,
    prefill: Sequence[int] | None = None,
    formats: Sequence[str] = ("litertlm",),
    verify: str = "quick",
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    display: Display | None = None,
    stages: Stages | None = None,
) -> Bundle:
    """Converts `model` ("demo", a folder, a hub id, or a module from tokens to logits) into `output` (./NAME).

    Raises:
        InputError: the model, its checkpoint or the options are not usable.
        Refused: something in the model is not proven to convert.
        CheckFailed: the result differs from the model.
        MachineError: disk, memory, access or network.
    """
    timeline = Timeline(display or Silent())
    with timeline.stage("read model") as stage:
        source = load_source(
            model,
            revision=revision,
            token=token,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=stage.advance,
        )
        stage.note = f"{len(source.checkpoint)} tensors, {_megabytes(sum(source.checkpoint.values()))}"
        settings = choose(
            source.config, context=context, prefill=prefill, quantize=quantize, formats=formats, verify=verify
        )
        tokenizer = _tokenizer(source) if "litertlm" in settings.formats else None
    with output_folder(Path(output) if output is not None else Path(source.name)) as (folder, publish):
        conversion = _Conversion(source, settings, tokenizer, timeline, folder, stages or Stages())
        files, report = conversion.run()
        return Bundle(publish.folder, publish(files), report)


def _tokenizer(source: Source) -> TokenizerSpec:
    if source.folder is None:
        raise InputError(
            "A .litertlm bundle needs a tokenizer, and a module in memory has none.",
            hint="Choose --format tflite (formats=('tflite',)), or convert a folder that holds the tokenizer.",
        )
    return read_tokenizer(source.folder)


@dataclass
class _Conversion:
    """One conversion under way; each method is a stage and writes into `folder`."""

    source: Source
    settings: Settings
    tokenizer: TokenizerSpec | None
    timeline: Timeline
    folder: Path
    stages: Stages
    checks: list[CheckResult] = field(default_factory=list)

    def run(self) -> tuple[dict[str, Path], Report]:
        with self._lowering() as lower_later:
            program = self._rewrite()
            rows = account(self.source, [s for weight in program.weights.values() for s in weight.sources])
            final = self.stages.before_lower(program)
            parts = signatures(final, self.settings.prefill)
            lowered = {name: lower_later(name, part) for name, part in parts.items()}
            if self.settings.verify != "off":
                self._check_graph(program)
            graphs = self._lowered(lowered)
        return self._write(graphs, final, rows)

    def _write(self, graphs: list[bytes], program: Program, rows: Sequence[Row]) -> tuple[dict[str, Path], Report]:
        linked = self._link(graphs, program)
        files = {"tflite": linked.path}
        if self.settings.verify != "off":
            self._check_constants(linked, program)
            if self._runs_file(linked):
                self._check_file(linked, graphs, program)
        if self.tokenizer is not None:
            files["litertlm"] = self._bundle(linked, program, self.stages.before_bundle(self.tokenizer))
            if self._runs_file(linked):
                self._check_bundle(files["litertlm"], linked, self.tokenizer)
        files = {name: file for name, file in files.items() if name in self.settings.formats}
        stages = self.timeline.stages
        report = make_report(self.source.name, self.settings, program, linked, rows, files, stages, self.checks)
        files["report"] = write_report(report, self.folder / "report.json")
        return files, report

    def _runs_file(self, linked: Linked) -> bool:
        return self.settings.verify == "full" or (self.settings.verify == "quick" and linked.size < _QUICK_FILE)

    def _rewrite(self) -> Program:
        regions = RegionCheck() if self.settings.verify != "off" else None
        options = Options(self.settings.context, PATTERNS, regions or (lambda *_: None))
        if self.settings.chose_context:
            program = rewrite(self.source.module, options, self.stages.passes, timeline=self.timeline)
        else:
            program, context = rewrite_at_most(self.source.module, options, self.stages.passes, self.timeline)
            self.settings = at_context(self.settings, context)
        if unrolls(program):
            self.settings = for_unrolled(self.settings)
        if regions is not None:
            self.checks.append(CheckResult("rewrites", True, f"{regions.executed} distinct regions executed"))
        return program

    def _check_graph(self, program: Program) -> None:
        # The worker has the other core; two threads here would wait for each other.
        threads = 1 if self._is_large else torch.get_num_threads()
        with (
            self.timeline.stage("check graph") as stage,
            reference_of(self.source) as reference,
            _threads(threads),
        ):
            vocabulary = _vocabulary(program)
            worst = check_graph(program, self.source.weights, reference, vocabulary, reference.token_by_token)
            stage.note = f"logits within {worst:.1e} σ"
            self.checks.append(CheckResult("graph in chunks", True, stage.note))

    @property
    def _is_large(self) -> bool:
        return sum(self.source.checkpoint.values()) >= _LARGE_MODEL

    @contextmanager
    def _lowering(self) -> Iterator[Callable[[str, Program], Lowered]]:
        """How to lower: for a large model in a process of its own, meanwhile; otherwise here, when asked."""
        if not self._is_large:
            yield lambda name, part: lambda: lower(name, part)
            return
        with start_worker() as worker:
            yield lambda name, part: worker.lower(name, part).result

    def _lowered(self, lowered: dict[str, Lowered]) -> list[bytes]:
        with self.timeline.stage("lower") as stage:
            graphs = []
            for index, result in enumerate(lowered.values()):
                stage.advance(index, len(lowered))
                graphs.append(result())
            stage.note = ", ".join(lowered)
        return graphs

    def _link(self, graphs: list[bytes], program: Program) -> Linked:
        with self.timeline.stage("link") as stage:
            linked = link(
                graphs,
                program.weights,
                self.source.weights,
                self.settings.quantize,
                self.folder / "model.tflite",
                progress=stage.advance,
            )
            stage.note = f"{_megabytes(linked.size)}, {self.settings.quantize}"
        return linked

    def _check_constants(self, linked: Linked, program: Program) -> None:
        with self.timeline.stage("check constants") as stage:
            checked = check_constants(linked.path, program.weights, self.source.weights, self.settings.quantize)
            stage.note = f"{checked.constants} tensors, {checked.numbers:,} numbers read back"
            self.checks.append(CheckResult("constants", True, stage.note))

    def _check_file(self, linked: Linked, graphs: list[bytes], program: Program) -> None:
        with self.timeline.stage("check file") as stage, reference_of(self.source) as reference:
            stage.note = check_linked_file(
                linked.path,
                graphs,
                program,
                self.source.weights,
                self.settings.quantize,
                reference,
                _vocabulary(program),
                thorough=self.settings.verify == "full",
            )
            self.checks.append(CheckResult("file in the interpreter", True, stage.note))

    def _bundle(self, linked: Linked, program: Program, tokenizer: TokenizerSpec) -> Path:
        with self.timeline.stage("bundle") as stage:
            path = self.folder / "model.litertlm"
            write_bundle(
                linked.path,
                tokenizer.section,
                build_llm_metadata(tokenizer, self.settings.context),
                build_executor_metadata(program.states, self.settings.context),
                path,
            )
            stage.note = _megabytes(path.stat().st_size)
        return path

    def _check_bundle(self, bundle: Path, linked: Linked, tokenizer: TokenizerSpec) -> None:
        with self.timeline.stage("check bundle") as stage, reference_of(self.source) as reference:
            assert self.source.folder is not None
            stage.note = check_bundle_file(bundle, linked.path, self.source.folder, self.settings, reference, tokenizer)
            self.checks.append(CheckResult("bundle in the runtime", True, stage.note))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _vocabulary(program: Program) -> int:
    output = next(iter(reversed(program.graph.graph.nodes)))
    return int(output.args[0]["logits"].meta["val"].shape[-1])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
