"""The form of a pass, and the one loop that runs passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoconvert.analysis.axis_rules import axes
from autoconvert.analysis.binding_times import Time, binding_times
from autoconvert.errors import Refused
from autoconvert.ir.fusion import NearMiss
from autoconvert.ir.program import Program
from autoconvert.rewrite.matching import OnMatch
from autoconvert.rewrite.pattern import Pattern
from autoconvert.rewrite.rule import OnRewrite


@dataclass(frozen=True)
class Options:
    """What passes need to know: the `context` in positions, the patterns, and who watches matches and rules."""

    context: int
    patterns: Sequence[Pattern]
    on_match: OnMatch
    on_rewrite: OnRewrite = lambda *_: None


@dataclass(frozen=True)
class Pass:
    """One transformation: `run` gives a program that computes the same and executes in PyTorch."""

    name: str
    run: Callable[[Program, Options], Program]


def run_passes(
    program: Program,
    options: Options,
    passes: Sequence[Pass],
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

    misses = [miss for miss in program.fusion.nearest() if is_near(miss)]
    nearest = "\n".join(f"Nearest: {miss}" for miss in misses[:1])
    hint = "\n".join(filter(None, (refusal.hint, nearest)))
    return type(refusal)(refusal.message, hint=hint, shorter=refusal.shorter, at=refusal.at)
