"""Why a file is wrong: the conversion is run again as far as lowering, and each program on the way is run."""

from collections.abc import Sequence

from autoconvert.check.blame import Blame
from autoconvert.check.graph import check_graph, text_for
from autoconvert.check.parity import reference_of
from autoconvert.driver.compile import Stages
from autoconvert.driver.trace_and_rewrite import rewrite
from autoconvert.errors import CheckFailed
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.rewrite.pass_manager import Options, Pass
from autoconvert.rewrite.pattern import Pattern
from autoconvert.source.source import Source


def localized(
    failure: CheckFailed,
    source: Source,
    capacity: int,
    vocabulary: int,
    stages: Stages,
    patterns: Sequence[Pattern],
) -> CheckFailed:
    """The failure of a check of the file; its message says which pass is to blame, or that none is.

    Raises:
        Refused: the source contradicts itself, and the file says what one of its ways says.
    """
    tokens = text_for(capacity, vocabulary)
    with reference_of(source) as reference:
        blame = Blame(source.weights, tokens, reference(tokens))

    def see(step: Pass, program: Program) -> None:
        blame.see(step.name, program)

    options = Options(capacity, patterns, lambda *_: None, CPU)
    program = rewrite(source.module, options, stages.passes, see, on_trace=lambda *_: blame.begin())
    program = stages.before_lower(program)
    blame.see("what follows the passes", program)
    with reference_of(source) as reference:
        try:
            check_graph(program, source.weights, reference, reference.token_by_token)
        except CheckFailed:
            found = blame.verdict
        else:
            found = "Every pass leaves it right, so it goes wrong in lowering, in linking or in the runtime."
    return CheckFailed("\n".join(filter(None, (failure.message, found))), hint=failure.hint)
