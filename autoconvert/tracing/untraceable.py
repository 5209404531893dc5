"""What is said of code that cannot be traced: the reason in a line, and the line of the model's own code."""

import inspect
import sys
import sysconfig
import traceback
from pathlib import Path

from autoconvert.errors import Inseparable

_STANDARD = sysconfig.get_paths()["stdlib"] + "/"
_OURS = str(Path(__file__).parents[1]) + "/"


def untraceable(what: str, error: Exception) -> Inseparable:
    """The refusal of a model whose code raised `error` while it was traced; a fault of the compiler is raised again."""
    if is_ours(error):
        raise error
    return Inseparable(f"{what}: {_first_line(error)}", hint=_source_line(error))


def _first_line(error: Exception) -> str:
    lines = [line.strip(" -") for line in str(error).strip().splitlines()]
    # What torch says first when a length is fixed by the code is how to ask torch for more.
    told = [line for line in lines if not line.startswith("Constraints violated")]
    return told[0] if told else type(error).__name__


def _source_line(error: Exception) -> str:
    """The innermost line of the traceback that belongs to a model, not to torch itself."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    for frame in reversed(frames):
        if is_of_a_model(frame.filename):
            code = (frame.code_context or [""])[0].strip()
            return f"It happens at {frame.filename}:{frame.lineno}: {code}"
    return ""


def is_ours(error: BaseException) -> bool:
    """Whether a line of the compiler raised `error`, and no code of a model had called it."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(files) and files[-1].startswith(_OURS) and not any(map(is_of_a_model, files))


def calling_line() -> str:
    """The line of the model's code that is being run."""
    for frame, line in traceback.walk_stack(sys._getframe()):
        name = frame.f_code.co_filename
        if is_of_a_model(name):
            return f"It happens at {name}:{line}."
    return ""


def is_of_a_model(filename: str) -> bool:
    """Whether a file holds a model's code: neither Python's own, nor torch's, nor the compiler's."""
    is_standard = filename.startswith(_STANDARD) and "/site-packages/" not in filename
    return not is_standard and not filename.startswith((_OURS, "<")) and "/torch/" not in filename
