"""Compiling: from a source to weightless flatbuffers, each rewrite checked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoconvert import ops
from autoconvert.check.repeated_entries import repeated_entries
from autoconvert.check.rewrites import RewriteChecks
from autoconvert.driver.compilation import Compilation
from autoconvert.driver.settings import Settings, at_context, for_unrolled, with_fixed_lengths
from autoconvert.driver.trace_and_rewrite import OnTrace, rewrite, rewrite_at_most
from autoconvert.ir.model import Model, Signature
from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.program import Program
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import write_model
from autoconvert.lowering.legalize import legalize
from autoconvert.lowering.litert import lower
from autoconvert.lowering.open_lengths import FixedLengths, open_lengths
from autoconvert.lowering.query_blocks import in_query_blocks
from autoconvert.lowering.workers import start_workers
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.passes.pipeline import PASSES
from autoconvert.passes.specialize_shapes import signature_programs
from autoconvert.patterns import PATTERNS
from autoconvert.report.check_result import REWRITES, CheckResult
from autoconvert.report.progress import Timeline
from autoconvert.report.readable import readable_repetition
from autoconvert.rewrite.pass_manager import Options, Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.scan.scan import unrolls
from autoconvert.source.accounting import require
from autoconvert.source.source import Source
from autoconvert.system.memory import trim

if TYPE_CHECKING:
    from autoconvert.dump.dump import Dump

# From this size of checkpoint on, in bytes, a second process pays for its start.
_LARGE_MODEL = 300 << 20

Lowered = Callable[[], bytes]
LowerLater = Callable[[str, Program], Lowered]

_DECODER = "decoder"


@dataclass(frozen=True)
class Stages:
    """The replaceable parts of a conversion, so that a test can put a fault into one of them.

    `rewritten` is a program to begin with, instead of the module's. `watch` is told each pass and the program that it
    left, and changes nothing.
    """

    rewritten: Program | None = None
    passes: Sequence[Pass] = PASSES
    watch: Callable[[Pass, Program], None] = lambda step, program: None
    before_lower: Callable[[Program], Program] = lambda program: program
    after_lower: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda graphs: graphs
    after_link: Callable[[Path], None] = lambda path: None
    before_bundle: Callable[[TokenizerSpec], TokenizerSpec] = lambda tokenizer: tokenizer

    @property
    def only_watch(self) -> bool:
        return replace(self, watch=Stages.watch) == Stages()


def compile_model(
    source: Source,
    settings: Settings,
    timeline: Timeline,
    stages: Stages,
    patterns: Sequence[Pattern] = PATTERNS,
    dump: "Dump | None" = None,
    meanwhile: Callable[[Compiled], None] = lambda _: None,
) -> Compilation:
    """Traces, rewrites and lowers the module of `source`.

    `dump` is told what every pass made. `meanwhile` is called, with all but the graphs, while another process lowers.

    Raises:
        InputError: the checkpoint lacks a tensor that the graph reaches.
        Refused: something in the model is not proven to convert.
        CheckFailed: a rewrite gives other numbers than what it replaces.
    """
    return _Compilation(source, settings, timeline, stages, patterns, dump, meanwhile).run()


def rewrite_within(
    source: Source,
    settings: Settings,
    checks: RewriteChecks | None = None,
    passes: Sequence[Pass] = PASSES,
    timeline: Timeline | None = None,
    patterns: Sequence[Pattern] = PATTERNS,
    dump: "Dump | None" = None,
    watch: Callable[[Pass, Program], None] = Stages.watch,
) -> tuple[Program, Settings]:
    """The rewritten program, and the settings that suit it where a person left them open.

    `checks` watch each rewrite, `dump` and `watch` are told each pass.

    Raises:
        Refused: something in the model is not proven to convert.
    """
    watched = (checks.regions, checks.rules) if checks else (lambda *_: None, lambda *_: None)
    options = Options(CPU.capacity(settings.context), patterns, watched[0], CPU, watched[1])
    if dump and checks:
        dump.errors = checks.regions.errors
    on_trace: OnTrace = dump.traced if dump else lambda *_: None

    def after(step: Pass, program: Program) -> None:
        watch(step, program)
        if dump:
            dump.after(step.name, program, step.summary)

    if settings.chose_context:
        program = rewrite(source.module, options, passes, after, timeline, on_trace)
    else:
        program, capacity = rewrite_at_most(source.module, options, passes, after, timeline, on_trace)
        settings = at_context(settings, min(settings.context, capacity))
    return program, _with_lengths_for(program, settings)


def _with_lengths_for(program: Program, settings: Settings) -> Settings:
    """The settings with the lengths of chunks that suit a program, where nobody chose them."""
    if unrolls(program):
        return for_unrolled(settings)
    why = _why_fixed(program)
    return with_fixed_lengths(settings, why) if why else settings


def _why_fixed(program: Program) -> str:
    """Why the device cannot take an open length, as far as an operation tells before it is lowered."""
    for node in program.graph.graph.nodes:
        if (why := CPU.why_fixed.get(node.target)) and not isinstance(node.meta["val"].shape[0], int):
            return why
    return ""


def _notes(program: Program) -> tuple[str, ...]:
    """What is right about a program, and costs more than it must."""
    return tuple(map(readable_repetition, repeated_entries(program)))


@dataclass
class _Compilation:
    source: Source
    settings: Settings
    timeline: Timeline
    stages: Stages
    patterns: Sequence[Pattern]
    dump: "Dump | None"
    meanwhile: Callable[[Compiled], None]

    def run(self) -> Compilation:
        checks = []
        with self._lowering() as lower_later:
            rewrites = RewriteChecks() if self.settings.verify != "off" else None
            program, self.settings = self._rewritten(rewrites)
            require(self.source, [source for weight in program.weights.values() for source in weight.sources])
            program = self.stages.before_lower(program)
            if rewrites is not None:
                checks.append(CheckResult(REWRITES, True, str(rewrites)))
            model, lowered = self._begin_lowering(program, lower_later)
            notes = _notes(program)
            if self._is_large:
                self.meanwhile(self._compiled(model, {}, notes))
            try:
                graphs = self._lowered(lowered)
            except FixedLengths as fixed:
                self.settings = with_fixed_lengths(self.settings, str(fixed))
                if self.dump:
                    self.dump.withdrawn()
                model, lowered = self._begin_lowering(program, lower_later)
                graphs = self._lowered(lowered)
            graphs = self.stages.after_lower(graphs)
        return Compilation(self._compiled(model, graphs, notes), tuple(checks))

    def _rewritten(self, checks: RewriteChecks | None) -> tuple[Program, Settings]:
        if self.stages.rewritten is not None:
            return self.stages.rewritten, _with_lengths_for(self.stages.rewritten, self.settings)
        return rewrite_within(
            self.source,
            self.settings,
            checks,
            self.stages.passes,
            self.timeline,
            self.patterns,
            self.dump,
            self.stages.watch,
        )

    def _begin_lowering(self, program: Program, lower_later: LowerLater) -> tuple[Model, dict[str, Lowered]]:
        model = text_model(program, self.settings)
        lowered = {}
        for name, part in signature_programs(model, CPU.port_names):
            if self.dump:
                dump_signature(self.dump, name, part)
            lowered[name] = lower_later(name, part)
        opened = {signature.name: signature for signature in model.signatures if signature.open}
        elsewhere = replace(model, signatures=tuple(signature.elsewhere for signature in opened.values()))
        for name, part in signature_programs(elsewhere, CPU.port_names):
            lowered[name] = _opened(lowered[name], lower_later(name, part), opened[name])
        trim()
        return model, lowered

    def _compiled(self, model: Model, graphs: dict[str, bytes], notes: tuple[str, ...]) -> Compiled:
        (program,) = model.programs.values()
        return Compiled(
            graphs=graphs,
            signatures=model.signatures,
            interfaces={name: each.interface for name, each in model.programs.items()},
            weights=model.weights,
            states=model.states,
            capacity=CPU.capacity(self.settings.context),
            prefill=self.settings.prefill,
            windows=windows_of(program),
            fusion=program.fusion,
            why_fixed=self.settings.why_fixed,
            notes=notes,
        )

    @property
    def _is_large(self) -> bool:
        return sum(self.source.checkpoint.values()) >= _LARGE_MODEL

    @contextmanager
    def _lowering(self) -> Iterator[LowerLater]:
        """How to lower: for a large model in a process of its own, meanwhile; otherwise here, when asked."""
        if not self._is_large:
            yield lambda name, part: lambda: lower(name, part, CPU)
            return
        with start_workers() as workers:
            yield lambda name, part: workers.lower(name, part, CPU).result

    def _lowered(self, lowered: dict[str, Lowered]) -> dict[str, bytes]:
        with self.timeline.stage("lower") as stage:
            graphs = {}
            for index, (name, result) in enumerate(lowered.items()):
                stage.advance(index, len(lowered))
                graphs[name] = result()
            stage.note = ", ".join(lowered)
        return graphs


def _opened(one: Lowered, other: Lowered, signature: Signature) -> Lowered:
    lengths = {name: (signature.sizes[name], size) for name, size in signature.open.items()}
    return lambda: write_model(in_query_blocks(open_lengths(one(), other(), lengths), CPU.port_names))


def dump_signature(dump: "Dump", name: str, part: Program) -> None:
    """Tells a dump what a signature calls, and what of that is lowered."""
    dump.specialized(name, part, part.with_graph(legalize(part.graph, CPU, part.weights)))


def windows_of(program: Program) -> tuple[int, ...]:
    """The windows and chunks of attention, ascending."""
    attentions = program.graph.graph.find_nodes(op="call_function", target=ops.cached_attention)
    named = [named_arguments(attention) for attention in attentions]
    sizes = {int(arguments.get(name) or 0) for arguments in named for name in ("window", "chunk_size")}
    return tuple(sorted(sizes - {0}))


def text_model(program: Program, settings: Settings) -> Model:
    """A model of one program, which reads a text in chunks."""
    return Model({_DECODER: program}, CPU.text_signatures(_DECODER, settings.prefill))
