"""What can go wrong, by whose fault it is: each kind of failure has its own exit code."""

import struct
from pathlib import Path
from typing import ClassVar

# What readers of binary formats raise where damaged bytes lead them anywhere.
BROKEN = (struct.error, LookupError, AttributeError, TypeError, ValueError, OverflowError, MemoryError)


class AutoconvertError(Exception):
    """A failure that a person can act on: what happened, where, and what to do about it.

    `hint` is the sentence that says what to do; it is printed below the message.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class BrokenPass(AutoconvertError):
    """A bug of the compiler: a pass left a program that is not well-formed, or not what the pass says."""


class InputError(AutoconvertError):
    """Bad usage or bad input: options that contradict, a missing or corrupt checkpoint."""

    exit_code = 2


class Refused(AutoconvertError):
    """The model needs something that the compiler cannot prove right yet.

    `shorter` is a context, in positions, at which it may; `at` is the name of the node in the graph, where it is one.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", shorter: int | None = None, at: str = "") -> None:
        super().__init__(message, hint=hint)
        self.shorter = shorter
        self.at = at


class Inseparable(Refused):
    """The trace of a whole text cannot be made, or cannot be split into chunks; that of a single step may do."""


class CheckFailed(AutoconvertError):
    """A check compared numbers and they differ: the result must not be used.

    As far as it is known, `blamed` is the pass, the rule or the pattern that did it, `at` the operation with its module
    or the constant, and `line` that of the model's code. `folder` is where `autoconvert reproduce` finds what makes it
    again; only a conversion leaves one.
    """

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "", blamed: str = "", at: str = "", line: str = "") -> None:
        super().__init__(message, hint=hint)
        self.blamed = blamed
        self.at = at
        self.line = line
        self.folder: Path | None = None


class BadGrade(AutoconvertError):
    """A file is the model, but what rounding costs is more than is allowed."""

    exit_code = 4


class MachineError(AutoconvertError):
    """The machine or the network: disk full, no access, not enough memory."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """What an exception says, in a line; its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
