"""A digest of all that Python objects say and rest on: values, code, what the code imports, files that it names.

Code whose version is known counts by that; other code by its files, its names as they are now, and so on through what
it imports. Neither names of files nor of modules are part of it, so that the same code in another folder is the same.
"""

import ast
import hashlib
import sys
import types
import weakref
from collections.abc import Iterable, Mapping, Set
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from autoconvert.analysis.constants import content
from autoconvert.driver.imports import Unknowable, file_of, files_named, imported, version_of
from autoconvert.source.skeleton import is_fake

# What a model says about where it came from, or about when it was made.
ORIGIN = ("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "_original_object_hash")

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(Ellipsis), Path)
# Where these are in a model's parts is said by its parameters, its buffers and its parts themselves.
_TENSORS = ("_parameters", "_buffers")


def fingerprint(roots: Iterable[object], folder: Path | None = None) -> str | None:
    """The hex digest of `roots`, objects or modules of Python; None where they run what nobody can know beforehand.

    `folder` is where code may read files from, beside its own. Parameters count by shape: no weight decides a graph.
    """
    walk = _Walk(folder)
    try:
        for root in roots:
            walk.value(root)
            if isinstance(root, types.ModuleType):
                # Of a module that stands here, also what somebody has put into it.
                walk.names(vars(root))
        walk.follow()
    except (Unknowable, RecursionError):
        return None
    return walk.digest.hexdigest()


class _Walk:
    """Says objects to a digest, each once; `pending` are modules whose code is still to be read."""

    def __init__(self, folder: Path | None) -> None:
        self.digest = hashlib.sha256()
        self._folder = folder
        self._numbers: dict[int, int] = {}
        self._hooks: dict[object, int] = {}
        self._alive: list[object] = []
        self._pending: list[str] = []
        self._modules: set[str] = set()

    def value(self, value: Any) -> None:
        if isinstance(value, Enum) or not isinstance(value, _PLAIN):
            self._structured(value)
        else:
            self._say(type(value).__name__, repr(value))

    def follow(self) -> None:
        while self._pending:
            name = self._pending.pop()
            if name not in self._modules:
                self._modules.add(name)
                self._module(name)

    def _say(self, *words: str | bytes) -> None:
        for word in words:
            encoded = word.encode("utf-8", "surrogatepass") if isinstance(word, str) else word
            self.digest.update(len(encoded).to_bytes(8, "little") + encoded)

    def _structured(self, value: Any) -> None:
        if id(value) in self._numbers:
            self._say("seen", str(self._numbers[id(value)]))
            return
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        self._say(type(value).__name__)
        if isinstance(value, types.ModuleType):
            self._pending.append(value.__name__)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, torch.Tensor):
            self._say(str(value.dtype), str(tuple(value.shape)))
            if not is_fake(value) and not isinstance(value, nn.Parameter):
                self._say(bytes(content(value)))
        elif isinstance(value, numpy.ndarray):
            self._say(str(value.dtype), str(value.shape))
            self._items(value.tolist()) if value.dtype.hasobject else self._say(value.tobytes())
        elif isinstance(value, Mapping):
            self._items(part for pair in list(value.items()) for part in pair)
        elif isinstance(value, Set):
            self._items(sorted(value, key=repr))
        elif isinstance(value, list | tuple):
            self._items(value)
        elif isinstance(value, types.CodeType):
            self._say(value.co_code, *value.co_names)
            self._items(value.co_consts)
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, staticmethod | classmethod | types.MethodType):
            self._items((value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, property):
            self._items((value.fget, value.fset))
        elif isinstance(value, partial):
            self._items((value.func, value.args, value.keywords))
        elif isinstance(value, Enum):
            self._say(value.name)
            self._pending.append(type(value).__module__)
        elif isinstance(value, weakref.ref):
            self._say("reference")
        else:
            self.value(type(value))
            if _says_all(value):
                skipped = {*ORIGIN, *(_TENSORS if isinstance(value, nn.Module) else ())}
                kept = {name: each for name, each in list(vars(value).items()) if name not in skipped}
                if isinstance(value, nn.Module):
                    kept |= {name: self._renumbered(hooks) for name, hooks in kept.items() if _are_hooks(name, hooks)}
                self._items(part for name in sorted(kept) for part in (name, kept[name]))

    def _renumbered(self, hooks: Mapping[object, object]) -> list[tuple[int, object]]:
        """torch numbers all hooks of a process, in the order in which they come to be; here by when each is seen."""
        return [(self._hooks.setdefault(number, len(self._hooks)), hook) for number, hook in hooks.items()]

    def _items(self, values: Iterable[object]) -> None:
        for value in values:
            self.value(value)
        self._say("end")

    def _function(self, function: types.FunctionType) -> None:
        self._pending.append(str(function.__globals__.get("__name__", "")))
        self._say(function.__qualname__)
        cells = function.__closure__ or ()
        self._items((function.__code__, function.__defaults__, function.__kwdefaults__))
        self._items(cell.cell_contents for cell in cells if _is_filled(cell))

    def _class(self, kind: type) -> None:
        """Its code and its plain values as they are now, also where somebody has replaced them; and its bases."""
        self._say(kind.__qualname__)
        self._pending.append(kind.__module__)
        if version_of(kind.__module__) is None:
            self._items(part for name, value in _own_names(vars(kind)) for part in (name, value))
            self._items(kind.__bases__)
        elif version_of(kind.__module__) != "python":
            self.names(vars(kind))
            self._items(kind.__bases__)

    def names(self, names: Mapping[str, object]) -> None:
        """Functions and plain values by their names; libraries note in private ones what they have found out."""
        for name, value in list(names.items()):
            if _is_function(value) or (isinstance(value, _PLAIN) and not name.startswith("_")):
                self._say(name)
                self.value(value)

    def _module(self, name: str) -> None:
        version = version_of(name)
        if version is not None:
            self._say(version)
            return
        file = file_of(name)
        if file is None or not file.is_file():
            raise Unknowable(f"{name} has no file")
        content = file.read_bytes()
        self._say(content)
        if file.suffix != ".py":
            return
        try:
            code = ast.parse(content)
        except (SyntaxError, ValueError) as error:
            raise Unknowable(f"{name} cannot be read") from error
        loaded = sys.modules.get(name)
        is_package = file.name == "__init__.py"
        package = getattr(loaded, "__package__", None) or (name if is_package else name.rpartition(".")[0])
        for other in imported(code, package):
            if other in sys.modules or file_of(other) is not None:
                self._pending.append(other)
        for table in files_named(code, file.parent, self._folder):
            self._say(table.name, hashlib.sha256(table.read_bytes()).digest())
        if loaded is not None:
            self._items(part for word, value in _own_names(vars(loaded)) for part in (word, value))


def _own_names(names: Mapping[str, object]) -> list[tuple[str, object]]:
    """What code itself has named: values that Python adds, as where a file lies, begin with two underscores."""
    return [(name, value) for name, value in names.items() if _is_function(value) or not name.startswith("__")]


def _is_function(value: object) -> bool:
    return isinstance(value, types.FunctionType | staticmethod | classmethod | property)


def _says_all(value: object) -> bool:
    """Whether the attributes of `value` are what it is: a model's part, or an object that plain code has made."""
    if not hasattr(value, "__dict__"):
        return False
    own = version_of(type(value).__module__) is None
    return (
        own or isinstance(value, nn.Module | types.SimpleNamespace) or is_dataclass(value) or hasattr(value, "to_dict")
    )


def _are_hooks(name: str, value: object) -> bool:
    return "_hooks" in name and isinstance(value, Mapping)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
