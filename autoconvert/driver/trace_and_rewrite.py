"""From a module to a rewritten program: which way it is traced, and at which context."""

import dataclasses
from collections.abc import Callable, Sequence

from torch import nn

from autoconvert.driver.settings import longest_context
from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.graph_module import code_when_called
from autoconvert.ir.program import Program
from autoconvert.passes.pipeline import PASSES
from autoconvert.report.progress import Silent, Timeline
from autoconvert.rewrite.pass_manager import Options, Pass, run_passes
from autoconvert.system.memory import collecting_later
from autoconvert.tracing.one_step import trace_one_step
from autoconvert.tracing.past import Past, past_of
from autoconvert.tracing.trace import takes_use_cache, trace

# How the note of a trace ends that is of the model's own path for one token.
SINGLE_STEP = " of a single step"

# Sees each trace before it is rewritten: which way, the context, the program.
OnTrace = Callable[[str, int, Program], None]


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
            blocks = program.fusion.blocks
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
        if not takes_use_cache(decoder):
            raise
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
    """The program and how many positions it holds: as `options` say, or a little less where the model's code needs it.

    Raises:
        Refused: neither is proven right.
    """
    try:
        return rewrite(decoder, options, passes, after, timeline, on_trace), options.context
    except Refused as refusal:
        if refusal.shorter is None or refusal.shorter < options.context // 2:
            raise
        shorter = dataclasses.replace(options, context=longest_context(refusal.shorter))
        return rewrite(decoder, shorter, passes, after, timeline, on_trace), shorter.context


def _past(decoder: nn.Module, context: int) -> Past | Refused:
    try:
        return past_of(decoder, context)
    except Refused as refusal:
        return refusal
