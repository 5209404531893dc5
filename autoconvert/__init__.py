"""Converts unmodified PyTorch language models to LiteRT by rewriting the traced graph."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autoconvert.errors import AutoconvertError, BrokenPass, CheckFailed, InputError, MachineError, Refused

if TYPE_CHECKING:
    from autoconvert.driver.convert import Bundle, convert
    from autoconvert.driver.convert_until import convert_until

__all__ = [
    "AutoconvertError",
    "BrokenPass",
    "Bundle",
    "CheckFailed",
    "InputError",
    "MachineError",
    "Refused",
    "convert",
    "convert_until",
]

_LATER = {
    "Bundle": "autoconvert.driver.convert",
    "convert": "autoconvert.driver.convert",
    "convert_until": "autoconvert.driver.convert_until",
}


class _Package(ModuleType):
    """Imports the compiler, which brings torch, when it is first asked for: `autoconvert --help` is quick."""

    def __getattr__(self, name: str) -> Any:
        if name in _LATER:
            return getattr(importlib.import_module(_LATER[name]), name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
