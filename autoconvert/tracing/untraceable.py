"""What is said of code that cannot be traced: the reason in a line, and the line of the model's own code."""

import inspect

from autoconvert.errors import Inseparable


def untraceable(what: str, error: Exception) -> Inseparable:
    """The refusal of a model whose code raised `error` while it was traced."""
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
        if "/torch/" not in frame.filename and "/autoconvert/" not in frame.filename:
            code = (frame.code_context or [""])[0].strip()
            return f"It happens at {frame.filename}:{frame.lineno}: {code}"
    return ""
