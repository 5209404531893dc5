"""The result of a check, for the report and for dumps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """A check that ran: what it compared, and the figure that it found."""

    name: str
    passed: bool
    detail: str
