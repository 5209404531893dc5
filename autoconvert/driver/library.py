"""Libraries of patterns from outside: files, installed packages, and patterns that a person hands over."""

import ast
import hashlib
import sys
import traceback
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from autoconvert.check.pattern import check_pattern
from autoconvert.driver.fingerprint import fingerprint
from autoconvert.errors import InputError
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pattern import Pattern
from autoconvert.system.output import expanded

GROUP = "autoconvert.patterns"

_FORM = "A pattern file ends in PATTERNS = (Pattern(…), …)."


@dataclass(frozen=True)
class Library:
    """Patterns of one origin. `digest` is that of their code, None where nobody can say what that is.

    `is_asked` says whether a person named it: what packages bring is tried on every model.
    """

    origin: str
    patterns: tuple[Pattern, ...]
    digest: str | None
    is_asked: bool = True


def libraries(given: Sequence[str | Path | Pattern] = ()) -> tuple[Library, ...]:
    """What is `given`, files and patterns, then what installed packages bring; each pattern is checked alone.

    Raises:
        InputError: a file or a pattern is wrong, with the file and the line; or two patterns have one name.
    """
    files = [load_file(expanded(each)) for each in given if not isinstance(each, Pattern)]
    patterns = tuple(each for each in given if isinstance(each, Pattern))
    by_hand = [Library("this program", patterns, None)] if patterns else []
    installed = [_installed(entry) for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)]
    found = (*files, *by_hand, *installed)
    for library in found:
        for pattern in library.patterns:
            check_pattern(pattern)
    _check_names(pattern for library in found for pattern in library.patterns)
    return found


def in_order(found: Iterable[Library]) -> tuple[Pattern, ...]:
    """All patterns as they are tried: those from outside first, since a built-in one may take a part of their block."""
    return (*(pattern for library in found for pattern in library.patterns), *PATTERNS)


def unmatched(found: Iterable[Library], matched: Container[str]) -> list[str]:
    """A sentence for each library that was asked for and matched nothing; `matched` are names of patterns."""
    nowhere = (each for each in found if each.is_asked and not any(p.name in matched for p in each.patterns))
    return [f"no pattern of {each.origin} matched; `autoconvert explain` says how near they came" for each in nowhere]


def digests(found: Iterable[Library]) -> list[str] | None:
    """What says that patterns are the same; None where nothing does."""
    known = [library.digest for library in found]
    return None if None in known else [digest for digest in known if digest is not None]


def load_file(path: Path) -> Library:
    """The patterns of a Python file, which is executed as a module of its own.

    Raises:
        InputError: it cannot be read or executed, or has no PATTERNS.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", hint="--patterns takes a Python file.") from error
    module = ModuleType(f"autoconvert_patterns_{hashlib.sha256(bytes(path) + content).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        # Not by an import, which would leave its own files beside a person's and trust their times.
        exec(compile(content, str(path), "exec"), vars(module))
    except SyntaxError as error:
        place = f"{error.filename or path}:{error.lineno or 1}"
        raise InputError(f"{place}: {error.msg}.", hint="A pattern file is Python.") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), 1)
        raise InputError(
            f"{path}:{line}: {type(error).__name__}: {error}", hint="A pattern file is Python that runs by itself."
        ) from error
    return Library(str(path), _patterns_of(vars(module), path), fingerprint([module]))


def _installed(entry: EntryPoint) -> Library:
    """An entry point names a module with PATTERNS, or the tuple itself as module:PATTERNS."""
    origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.name
    try:
        loaded = entry.load()
        module = sys.modules[entry.module]
    except Exception as error:
        raise InputError(
            f"The patterns {entry.value} of {origin} cannot be loaded: {type(error).__name__}: {error}",
            hint=f"Update or remove {origin}.",
        ) from error
    names = {"PATTERNS": loaded} if entry.attr else vars(module)
    return Library(origin, _patterns_of(names, Path(str(module.__file__))), fingerprint([module]), is_asked=False)


def _patterns_of(names: dict[str, Any], file: Path) -> tuple[Pattern, ...]:
    if "PATTERNS" not in names:
        raise InputError(f"{file}: there is no PATTERNS in it.", hint=_FORM)
    patterns, (first, *lines) = names["PATTERNS"], _lines(file.read_bytes())
    if not isinstance(patterns, tuple | list) or not patterns:
        what = "empty" if isinstance(patterns, tuple | list) else f"a {type(patterns).__name__}, not a tuple"
        raise InputError(f"{file}:{first}: PATTERNS is {what}.", hint=_FORM)
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, Pattern):
            line = lines[index] if len(lines) == len(patterns) else first
            raise InputError(
                f"{file}:{line}: entry {index + 1} of PATTERNS is a {type(pattern).__name__}, not a Pattern.",
                hint=_FORM,
            )
    return tuple(patterns)


def _lines(content: bytes) -> list[int]:
    """The line that gives PATTERNS its value, then those of its entries where they are written there."""
    for statement in reversed(ast.parse(content).body):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if isinstance(target, ast.Name) and target.id == "PATTERNS":
            value = getattr(statement, "value", None)
            entries = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            return [statement.lineno, *(entry.lineno for entry in entries)]
    return [1]


def _check_names(patterns: Iterable[Pattern]) -> None:
    known = {pattern.name: pattern for pattern in PATTERNS}
    for pattern in patterns:
        other = known.setdefault(pattern.name, pattern)
        if other is not pattern:
            raise pattern.fault(
                f"there is another one of this name at {other.source}.", hint="Each has a name of its own."
            )
