"""Converts unmodified PyTorch language models to LiteRT by rewriting the traced graph."""

import importlib
from typing import TYPE_CHECKING, Any

from autoconvert.errors import AutoconvertError, BadGrade, BrokenPass, CheckFailed, InputError, MachineError, Refused

if TYPE_CHECKING:
    from autoconvert.check.verdict import Verdict
    from autoconvert.diagnose.explain import explain
    from autoconvert.diagnose.explanation import Explanation
    from autoconvert.driver.check_file import check_file
    from autoconvert.driver.convert import Bundle, convert
    from autoconvert.driver.convert_until import convert_until
    from autoconvert.driver.estimate import Plan
    from autoconvert.driver.plan import plan
    from autoconvert.driver.reproduce import Reproduction, reproduce
    from autoconvert.report.table import display_on

__all__ = [
    "AutoconvertError",
    "BadGrade",
    "BrokenPass",
    "Bundle",
    "CheckFailed",
    "Explanation",
    "InputError",
    "MachineError",
    "Plan",
    "Refused",
    "Reproduction",
    "Verdict",
    "check_file",
    "convert",
    "convert_until",
    "display_on",
    "explain",
    "plan",
    "reproduce",
]

_LATER = {
    "Bundle": "autoconvert.driver.convert",
    "Explanation": "autoconvert.diagnose.explanation",
    "Plan": "autoconvert.driver.estimate",
    "Reproduction": "autoconvert.driver.reproduce",
    "Verdict": "autoconvert.check.verdict",
    "check_file": "autoconvert.driver.check_file",
    "convert": "autoconvert.driver.convert",
    "convert_until": "autoconvert.driver.convert_until",
    "display_on": "autoconvert.report.table",
    "explain": "autoconvert.diagnose.explain",
    "plan": "autoconvert.driver.plan",
    "reproduce": "autoconvert.driver.reproduce",
}


def __getattr__(name: str) -> Any:
    """Imports the compiler, which brings torch, when it is first asked for: `autoconvert --help` is quick."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
