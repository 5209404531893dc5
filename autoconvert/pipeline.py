"""The compiler in reading order: the tuple of passes, and the one loop that runs them."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.errors import Inseparable, Refused
from autoconvert.graph_module import code_when_called
from autoconvert.memory import collecting_later
from autoconvert.passes.bind_positions import bind_positions
from autoconvert.passes.bind_weights import bind_weights
from autoconvert.passes.carry_recurrences import carry_recurrences
from autoconvert.passes.carry_sums import carry_sums
from autoconvert.passes.loops_to_pairs import loops_to_pairs
from autoconvert.passes.make_stateful import make_stateful
from autoconvert.passes.move_histories import move_histories
from autoconvert.passes.normalise import normalise
from autoconvert.passes.recognise import OnMatch, recognise
from autoconvert.passes.specialise import decode, prefill
from autoconvert.passes.steps_to_sequence import steps_to_sequence
from autoconvert.passes.write_out import write_out
from autoconvert.pattern import Pattern, operations_of
from autoconvert.program import NearMiss, Program
from autoconvert.report.progress import Silent, Timeline
from autoconvert.tracing.one_step import trace_one_step
from autoconvert.tracing.past import Past, past_of
from autoconvert.tracing.trace import trace

# How the note of a trace ends that is of the model's own path for one token.
SINGLE_STEP = " of a single step"

# Sees each trace before it is rewritten: which way, the context, the program.
OnTrace = Callable[[str, int, Program], None]


@dataclass(frozen=True)
class Options:
    """What passes need to know: the `context` in positions, the patterns, and who watches matches."""

    context: int
    patterns: Sequence[Pattern]
    on_match: OnMatch


@dataclass(frozen=True)
class Pass:
    """One transformation: `run` gives a program that computes the same and executes in PyTorch."""

    name: str
    run: Callable[[Program, Options], Program]


PASSES: tuple[Pass, ...] = (
    Pass("normalise", lambda program, _: program.with_graph(normalise(program.graph))),
    Pass("loops to pairs", lambda program, _: loops_to_pairs(program)),
    # Blocks are recognised while weights and positions are still inputs: patterns are written that way.
    Pass("recognise", lambda program, options: recognise(program, options.patterns, options.on_match)),
    Pass("write out", lambda program, options: write_out(program, operations_of(options.patterns))),
    Pass("move histories", lambda program, _: move_histories(program)),
    # What was traced as a step is a sequence from here on.
    Pass("steps to sequence", lambda program, options: steps_to_sequence(program, options.context)),
    Pass("bind weights", lambda program, _: bind_weights(program)),
    # Masks become attributes of recognised attention, so this comes after recognition.
    Pass("bind positions", lambda program, options: bind_positions(program, options.context)),
    # After positions: a sum over what tokens do not change is a table by now.
    Pass("carry sums", lambda program, _: carry_sums(program)),
    Pass("make stateful", lambda program, _: make_stateful(program)),
    Pass("carry recurrences", lambda program, _: carry_recurrences(program)),
)


@collecting_later()
@code_when_called()
def rewrite(
    decoder: nn.Module,
    options: Options,
    passes: Sequence[Pass] = PASSES,
    after: Callable[[Pass, Program], None] = lambda _, program: None,
    timeline: Timeline | None = None,
    on_trace: OnTrace = lambda *_: None,
) -> Program:
    """Traces `decoder` and runs `passes`: on a whole text, or where that cannot be split on a single step.

    What keeps a state is tried by its steps first.

    Raises:
        Refused: neither way is proven right.
    """

    def rewritten(way: str, traced: Callable[[], Program]) -> Program:
        with stages.stage("trace") as stage:
            program = traced()
            stage.note = f"{len(program.graph.graph.nodes)} nodes{way}"
        on_trace("single step" if way else "whole text", options.context, program)
        with stages.stage("rewrite") as stage:
            program = run_passes(program, options, passes, after)
            blocks = program.recognition.blocks
            stage.note = ", ".join(f"{count} {block.replace('_', '-')}" for block, count in blocks.items())
        return program

    def by_steps(past: Past | Refused) -> Program | Refused:
        if isinstance(past, Refused):
            return past
        try:
            return rewritten(SINGLE_STEP, lambda: trace_one_step(decoder, past, options.context))
        except Refused as refusal:
            return refusal

    stages = timeline or Timeline(Silent())
    past = _past(decoder, options.context)
    # Over a whole text a state is a loop, which takes long to trace for nothing.
    step = by_steps(past) if isinstance(past, Past) and past.tensors else None
    if isinstance(step, Program):
        return step
    try:
        return rewritten("", lambda: trace(decoder, options.context))
    except Inseparable as whole:
        step = step or by_steps(past)
        if isinstance(step, Program):
            return step
        hint = "\n".join(filter(None, (whole.hint, step.hint)))
        message = f"{whole.message}\nToken by token: {step.message}"
        raise Refused(message, hint=hint, shorter=whole.shorter, at=whole.at or step.at) from step


def rewrite_at_most(
    decoder: nn.Module,
    options: Options,
    passes: Sequence[Pass] = PASSES,
    after: Callable[[Pass, Program], None] = lambda _, program: None,
    timeline: Timeline | None = None,
    on_trace: OnTrace = lambda *_: None,
) -> tuple[Program, int]:
    """The program and its context: that of `options`, or a little less where the model's code holds only there.

    Raises:
        Refused: neither is proven right.
    """
    try:
        return rewrite(decoder, options, passes, after, timeline, on_trace), options.context
    except Refused as refusal:
        if refusal.shorter is None or refusal.shorter < options.context // 2:
            raise
        shorter = dataclasses.replace(options, context=refusal.shorter)
        return rewrite(decoder, shorter, passes, after, timeline, on_trace), shorter.context


def _past(decoder: nn.Module, context: int) -> Past | Refused:
    try:
        return past_of(decoder, context)
    except Refused as refusal:
        return refusal


def run_passes(
    program: Program,
    options: Options,
    passes: Sequence[Pass] = PASSES,
    after: Callable[[Pass, Program], None] = lambda _, program: None,
) -> Program:
    """Runs `passes` in order; `after` sees the program after each.

    Raises:
        Refused: a pass could not prove its rewrite; the hint ends with the nearest pattern that declined.
    """
    for step in passes:
        try:
            program = step.run(program, options)
        except Refused as refusal:
            raise _with_near_misses(refusal, program) from refusal
        after(step, program)
    return program


def _with_near_misses(refusal: Refused, program: Program) -> Refused:
    times = binding_times(program.graph.graph)
    pairs = {node.name for node, time in times.items() if time is Time.TOKEN and len(axes(node)) > 1}

    def is_near(miss: NearMiss) -> bool:
        """What stands around a value of tokens for every two positions has such values itself."""
        return refusal.at not in pairs or not pairs.isdisjoint((miss.node, *miss.covered))

    misses = [miss for miss in program.recognition.nearest() if is_near(miss)]
    nearest = "\n".join(f"Nearest: {miss}" for miss in misses[:1])
    hint = "\n".join(filter(None, (refusal.hint, nearest)))
    return type(refusal)(refusal.message, hint=hint, shorter=refusal.shorter, at=refusal.at)


def signatures(program: Program, lengths: Sequence[int]) -> dict[str, Program]:
    """The program specialised to each prefill length and to decode, by the runtime's signature names."""
    return {f"prefill_{n}": prefill(program, n) for n in lengths} | {"decode": decode(program)}
