"""What became of one type."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from multiply_adds import Growth

from autoconvert.quantization.choices import DEFAULT

Stage = Literal["graph", "file"]
Status = Literal["right", "refused", "wrong", "failed", "not buildable"]
STATUSES: tuple[Status, ...] = ("right", "refused", "wrong", "failed", "not buildable")
CONTEXT = 64
SMALLER_CONTEXT = 32

# The columns of the table, in the order in which a conversion goes.
STEPS = ("trace", "fuse", "state", "lower", "run", "parity", DEFAULT)

# A place as messages have it: `(path.py:line: code)`, where the code may have parentheses of its own.
_PLACE = re.compile(r"\((?:/[^\s():]+/)?([\w.-]+\.py):(\d+)(?=[:)])")
_PATH = re.compile(r"(?:/[^\s():]+)+/([\w.-]+\.py):(\d+)(?:: [^\n]*)?")


@dataclass(frozen=True)
class Outcome:
    """A row of the table: `passed` are the steps that went well; `distance` is in σ of the model's logits.

    `is_of_steps` says that the model was traced as a single step, `why_fixed` why the file's lengths do not follow the
    history.

    "refused" is what the compiler declined, "wrong" what it converted or checked with other numbers, "failed" what
    broke in any other way.
    """

    model_type: str
    status: Status
    reason: str = ""
    passed: tuple[str, ...] = ()
    is_of_steps: bool = False
    why_fixed: str = ""
    blocks: dict[str, int] = field(default_factory=dict)
    patterns: dict[str, int] = field(default_factory=dict)
    distance: float | None = None
    multiply_adds: Growth | None = None
    seconds: float = 0.0
    peak_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Outcome":
        macs = fields["multiply_adds"]
        growth = Growth(**{**macs, "elsewhere": tuple(macs["elsewhere"])}) if macs else None
        return cls(**{**fields, "passed": tuple(fields["passed"]), "multiply_adds": growth})


def _without_code(line: str) -> str:
    """The line with `(file.py:line)` for every place in it."""
    kept = ""
    while (place := _PLACE.search(line)) is not None:
        kept += f"{line[: place.start()]}({place[1]}:{place[2]})"
        line = line[_end_of_place(line, place.start()) :]
    return kept + line


def _end_of_place(line: str, start: int) -> int:
    """Behind the parenthesis that closes the one at `start`; code that is cut off may open more than it closes."""
    depth = 0
    for index in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[index], 0)
        if depth == 0:
            return index + 1
    closing = line.rfind(")")
    return closing + 1 if closing > start else len(line)


def brief(message: str, hint: str = "") -> str:
    """A refusal in one line that is the same on every machine: paths become `file.py:line`.

    Where the message names no line of code, that of the hint is added.
    """
    text = " ".join(_PATH.sub(r"\1:\2", "\n".join(map(_without_code, message.splitlines()))).split())
    place = _PATH.search(hint)
    if ".py:" not in text and place is not None:
        text = f"{text.rstrip('.')} ({place[1]}:{place[2]})"
    return text
