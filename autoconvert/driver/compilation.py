"""A compilation: what came of a model, and the checks that it has passed."""

from dataclasses import dataclass

from autoconvert.lowering.compiled import Compiled
from autoconvert.report.check_result import CheckResult


@dataclass(frozen=True)
class Compilation:
    """`checks` are those that were passed with the weights at hand when `compiled` was made."""

    compiled: Compiled
    checks: tuple[CheckResult, ...]
