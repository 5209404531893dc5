"""A compilation: what came of a model, and the checks that it has passed."""

import dataclasses
from dataclasses import dataclass

from autoconvert.lowering.compiled import Compiled
from autoconvert.report.check_result import REWRITES, CheckResult

# Run on numbers made up for each rewrite; the others compare what a model gives with its weights.
_OF_ANY_WEIGHTS = (REWRITES,)


@dataclass(frozen=True)
class Compilation:
    """`checks` are those that were passed with the weights at hand when `compiled` was made; `weights` says which."""

    compiled: Compiled
    checks: tuple[CheckResult, ...]
    weights: str = ""

    def reused(self, weights: str) -> "Compilation":
        """The same for `weights`: only with what was checked with them, or without any."""
        checks = tuple(
            dataclasses.replace(check, detail=f"{check.detail} when it was compiled")
            for check in self.checks
            if check.name in _OF_ANY_WEIGHTS or weights == self.weights
        )
        return dataclasses.replace(self, checks=checks, weights=weights)
