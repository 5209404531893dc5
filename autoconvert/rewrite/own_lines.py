"""Lines of a pattern from outside: what is traced of its functions tells the line that called it.

A node that comes from there stands in the place of the model's, but its author wrote it in another file.
"""

import functools
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from torch.fx.traceback import annotate, preserve_node_meta
from torch.overrides import TorchFunctionMode

from autoconvert.ir.provenance import WRITTEN

_PACKAGE = Path(__file__).parents[1]


def with_own_lines(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, each of whose operations tells its line; as it is where this project has written it."""
    code = getattr(function, "__code__", None)
    if code is None or Path(code.co_filename).is_relative_to(_PACKAGE):
        return function

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with preserve_node_meta(), _Lines(code.co_filename):
            return function(*args, **kwargs)

    return called


class _Lines(TorchFunctionMode):
    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        line = self._line(sys._getframe(1))
        with annotate({WRITTEN: f"{self._file}:{line}: {linecache.getline(self._file, line).strip()}"}):
            return func(*args, **(kwargs or {}))

    def _line(self, frame: FrameType | None) -> int:
        """Of the innermost frame in the file; the function itself is one of those around."""
        while frame is not None and frame.f_code.co_filename != self._file:
            frame = frame.f_back
        return frame.f_lineno if frame is not None else 0
