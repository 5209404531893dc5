"""Why a file is wrong: the conversion is run again as far as lowering, and each program on the way is run."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from autoconvert.check.blame import Blame
from autoconvert.check.deployment import Misread
from autoconvert.check.expected import Expected
from autoconvert.check.graph import check_graph
from autoconvert.check.parity import reference_of
from autoconvert.check.readings import Reading, from_the_start
from autoconvert.driver.compile import Stages
from autoconvert.driver.trace_and_rewrite import rewrite
from autoconvert.errors import CheckFailed
from autoconvert.ir.program import Program
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.cpu import CPU
from autoconvert.rewrite.pass_manager import Options, Pass, run_name
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.source import Source


def localized(
    failure: CheckFailed,
    source: Source,
    known: Expected,
    compiled: Compiled,
    stages: Stages,
    patterns: Sequence[Pattern],
) -> CheckFailed:
    """The failure of a check of the file; its message says which pass is to blame, or that none is.

    Raises:
        Refused: the source contradicts itself, and the file says what one of its ways says.
    """
    # What the file says wrong is asked of every program, at the same places in a text of the same chunks.
    reading = failure.reading if isinstance(failure, Misread) else _short(compiled)
    expected = known.logits(reading)
    assert expected is not None, "a file is only found wrong beside what the source says"
    blame = Blame(source.weights, reading, expected)

    runs: Counter[str] = Counter()

    def begin(*_: object) -> None:
        runs.clear()
        blame.begin()

    def see(step: Pass, program: Program) -> None:
        runs[step.name] += 1
        blame.see(run_name(step.name, runs[step.name]), program)

    options = Options(compiled.capacity, patterns, lambda *_: None, CPU)
    program = rewrite(source.module, options, stages.passes, see, on_trace=begin)
    program = stages.before_lower(program)
    blame.see("what follows the passes", program)
    found = blame.verdict
    if blame.is_right(program):
        found = "Every pass leaves it right, so it goes wrong in lowering, in linking or in the runtime."
    else:
        _refuse_contradiction(program, source)
    message = "\n".join(filter(None, (failure.message, found)))
    return CheckFailed(message, hint=failure.hint, blamed=blame.blamed, at=blame.at, line=blame.line)


def _short(compiled: Compiled) -> Reading:
    return from_the_start(compiled.prefill, compiled.capacity, compiled.vocabulary)


def _refuse_contradiction(program: Program, source: Source) -> None:
    with reference_of(source) as reference, suppress(CheckFailed):
        check_graph(program, source.weights, reference, reference.token_by_token)
