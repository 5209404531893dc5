"""Converts unmodified PyTorch language models to LiteRT by rewriting the traced graph."""

from autoconvert.convert import Bundle, convert
from autoconvert.errors import AutoconvertError, CheckFailed, InputError, MachineError, Refused

__all__ = ["AutoconvertError", "Bundle", "CheckFailed", "InputError", "MachineError", "Refused", "convert"]
