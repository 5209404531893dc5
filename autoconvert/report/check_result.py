"""The result of a check, for the report and for dumps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """A check: what it compared and the figure that it found, or that it did not pass, or was not run, and why."""

    name: str
    passed: bool
    detail: str
