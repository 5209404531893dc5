"""The result of a check, for the report and for dumps."""

from dataclasses import dataclass

# The checks of a conversion, in their order.
REWRITES, CONSTANTS, FILE, BUNDLE = "rewrites", "constants", "file in the interpreter", "bundle in the runtime"


@dataclass(frozen=True)
class CheckResult:
    """A check: what it compared and the figure that it found, or that it did not pass, or was not run, and why."""

    name: str
    passed: bool
    detail: str
