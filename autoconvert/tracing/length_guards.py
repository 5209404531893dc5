"""Where a model's code decides by its length: what torch takes for granted of lengths while it traces, with the lines.

torch tells them to its log alone, as "eval EXPRESSION [guard added] …" (torch.fx.experimental.symbolic_shapes, 2.13);
a length is a symbol such as s27 there.
"""

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autoconvert.tracing.untraceable import calling_line

_LOG = logging.getLogger("torch.fx.experimental.symbolic_shapes")
_GUARD = re.compile(r"(?:eval|runtime_assert) (?!\[guard suppressed\])(.+?) \[guard added\]")
_COMPARED = re.compile(r"(Eq|Ne)\((.+), ([^,()]+)\)")
_SYMBOL = re.compile(r"\bs\d+\b")
# What expressions of lengths are made of, beside Python's own operators.
_FUNCTIONS: dict[str, Any] = {
    "Eq": lambda one, other: one == other,
    "Ne": lambda one, other: one != other,
    "Mod": lambda one, other: one % other,
    "Min": min,
    "Max": max,
}


@dataclass(frozen=True)
class LengthGuard:
    """A condition on the length, as Python, and the line of the model's code that was run."""

    condition: str
    line: str

    def __str__(self) -> str:
        compared = _COMPARED.fullmatch(self.condition)
        return f"{compared[2]} {'==' if compared[1] == 'Eq' else '!='} {compared[3]}" if compared else self.condition

    def holds_at(self, length: int) -> bool:
        """Whether it does; a condition that is not of the length alone counts as one that does."""
        try:
            return bool(eval(self.condition, {"__builtins__": {}, "length": length}, _FUNCTIONS))
        except (ArithmeticError, NameError, SyntaxError, TypeError):
            return True


class _Hearing(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.guards: list[LengthGuard] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (found := _GUARD.match(record.getMessage())) and (line := calling_line()):
            self.guards.append(LengthGuard(_SYMBOL.sub("length", found[1]), line))


@contextmanager
def length_guards() -> Iterator[list[LengthGuard]]:
    """The list that fills with what torch takes for granted of lengths while the context lasts."""
    hearing, level, propagates = _Hearing(), _LOG.level, _LOG.propagate
    silenced, disabled = logging.root.manager.disable, _LOG.disabled
    _LOG.addHandler(hearing)
    # Whoever silenced all logs, or those that existed, did not mean this one.
    logging.disable(logging.NOTSET)
    _LOG.disabled = False
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    try:
        yield hearing.guards
    finally:
        _LOG.removeHandler(hearing)
        _LOG.setLevel(level)
        _LOG.propagate = propagates
        _LOG.disabled = disabled
        logging.disable(silenced)


def first_broken(guards: Collection[LengthGuard], lengths: Collection[int]) -> LengthGuard | None:
    """The guard that was added first of those that do not hold at all `lengths`."""
    return next((guard for guard in guards if not all(map(guard.holds_at, lengths))), None)
