"""Converts unmodified PyTorch language models to LiteRT by rewriting the traced graph."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autoconvert.errors import AutoconvertError, CheckFailed, InputError, MachineError, Refused

if TYPE_CHECKING:
    from autoconvert.driver.convert import Bundle, convert

__all__ = ["AutoconvertError", "Bundle", "CheckFailed", "InputError", "MachineError", "Refused", "convert"]

_FROM_CONVERT = ("Bundle", "convert")


class _Package(ModuleType):
    """Imports the compiler, which brings torch, when it is first asked for: `autoconvert --help` is quick."""

    def __getattr__(self, name: str) -> Any:
        if name in _FROM_CONVERT:
            return getattr(importlib.import_module("autoconvert.driver.convert"), name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module `convert` sets it as an attribute here, in the place of the function.
        if name == "convert" and isinstance(value, ModuleType):
            value = value.convert
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
