"""What a Python file rests on: the modules that it imports anywhere in it, and the files beside it that it names."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

# What these run or import is told by their argument alone, so it must be a word that stands in the code.
_DYNAMIC = ("import_module", "__import__", "exec", "eval")
# A checkpoint decides no graph, and what names one need not be read whole.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_LONGEST_PATH = 200


class Unknowable(Exception):
    """Nobody can say beforehand what code will run."""


def version_of(module: str) -> str | None:
    """The name and version that stand for the code of `module`; None where it may change without one.

    Python's own modules have Python's version, autoconvert's are read by whoever asks. An installed package has one
    only where its files lie with its metadata: an editable one has none.
    """
    return _version_of(module.partition(".")[0])


@cache
def _version_of(package: str) -> str | None:
    if package in sys.stdlib_module_names or package == "autoconvert":
        return "python"
    for name in packages_distributions().get(package, ()):
        installed = distribution(name)
        place = Path(str(installed.locate_file("")))
        file = getattr(sys.modules.get(package), "__file__", None) or _origin(package)
        if file is not None and Path(file).is_relative_to(place):
            return f"{name} {installed.version}"
    return None


def file_of(module: str) -> Path | None:
    """The file of `module`, loaded or not; None where it has none."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None) if loaded is not None else _origin(module)
    return Path(file) if file else None


def imported(code: ast.Module, package: str) -> Iterator[str]:
    """Full names of what `code`, a module of `package`, may import, also inside of functions.

    Raises:
        Unknowable: something is imported or run by a name that is computed.
    """
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base is not None:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in _DYNAMIC:
            word = node.args[0] if node.args else None
            if not (isinstance(word, ast.Constant) and isinstance(word.value, str)) or _called(node) in (
                "exec",
                "eval",
            ):
                raise Unknowable(f"line {node.lineno}: {_called(node)} of what is computed")
            if (name := _absolute(word.value, package)) is not None:
                yield name


def files_named(code: ast.Module, *folders: Path | None) -> Iterator[Path]:
    """Files of `folders` whose name stands in `code`, but for checkpoints: tables that it may read."""
    words = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for word in sorted(words):
        if not 0 < len(word) < _LONGEST_PATH or "\0" in word or "\n" in word or word.endswith(_WEIGHTS):
            continue
        for folder in folders:
            if folder is not None and (file := folder / word).is_file():
                yield file


def _called(call: ast.Call) -> str:
    """The function's name; a method called eval or exec is something else."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    is_import = isinstance(call.func, ast.Attribute) and call.func.attr == "import_module"
    return "import_module" if is_import else ""


def _absolute(name: str, package: str) -> str | None:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return None


def _origin(module: str) -> str | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return found.origin if found is not None and found.has_location else None
