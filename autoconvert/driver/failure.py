"""A failed check as data: what was asked for, what was found, and what is needed to find it again."""

import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from autoconvert.check.grade import Grading
from autoconvert.dump.places import without_paths
from autoconvert.errors import CheckFailed, InputError
from autoconvert.quantization.recipe import Recipe
from autoconvert.rewrite.pattern import Pattern

MANIFEST = "failure.json"
FORMAT = 1

# Where in the folder a model's configuration, code and tokenizer lie.
MODEL = "model"

_OPTIONS = {"quantize", "context", "prefill", "formats", "verify", "trust_remote_code", "allow_pickle"}
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
_FOLDERS = re.compile(r"[^\s('\"]*/")


@dataclass(frozen=True)
class Asked:
    """The arguments of a conversion that decide what comes of it, as `convert` has them."""

    model: str | Path | nn.Module
    quantize: str | Recipe
    context: int | None
    prefill: Sequence[int] | None
    formats: Sequence[str]
    verify: str
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    patterns: Sequence[str | Path | Pattern] = ()
    grading: Grading = field(default_factory=Grading)


@dataclass(frozen=True)
class Fault:
    """What a failed check is known by: the stage, and as far as known pass, operation and line, as in `CheckFailed`."""

    check: str
    blamed: str
    at: str
    line: str
    message: str

    def is_like(self, other: "Fault") -> bool:
        """Whether both are one fault; numbers, and where files lie, may differ."""
        mine, others = ((each.check, each.blamed, each.at, _said(each.message)) for each in (self, other))
        return mine == others

    def __str__(self) -> str:
        blamed = self.blamed if not self.blamed or " " in self.blamed else f"pass {self.blamed}"
        return ", ".join(filter(None, (self.check, blamed, self.at)))


@dataclass(frozen=True)
class Failure:
    """What `failure.json` says. Of a model that must be handed over, `model` is where it was, None for one in memory.

    `needs_model` says why random weights do not do, "" where they do. `by_hand` names arguments that no file can hold.
    """

    fault: Fault
    name: str
    options: dict[str, Any]
    patterns: tuple[str, ...]
    needs_model: str
    model: str | None
    revision: str | None
    by_hand: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def runs_code(self) -> bool:
        """Whether the folder brings Python code that runs."""
        return bool(self.patterns) or bool(self.options["trust_remote_code"])


def fault_of(failure: CheckFailed, check: str) -> Fault:
    """What `failure` of the stage `check` is known by, no path of this machine in it."""
    line, message = without_paths(failure.line), without_paths(failure.message)
    return Fault(check, failure.blamed, failure.at, line, message)


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of these packages, of Python and of the platform, here."""
    return {name: _version_of(name) for name in names}


def _version_of(name: str) -> str:
    if name == "Python":
        return platform.python_version()
    if name == "platform":
        return platform.platform()
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def is_ours(folder: Path) -> bool:
    """Whether `folder` is one that a failed check has left."""
    return folder.is_dir() and not folder.is_symlink() and (folder / MANIFEST).is_file()


def write_failure(failure: Failure, folder: Path) -> None:
    content = {"format": FORMAT, **asdict(failure)}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_failure(folder: Path) -> Failure:
    """What a failed check has left in `folder`.

    Raises:
        InputError: it is no such folder, or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder}: no failed check has left this ({MANIFEST} is missing)", hint="Name a folder NAME-failure."
        )
    hint = "Get the folder again, with the version of autoconvert that it names."
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise InputError(f"{path}: its format is {content['format']}, not {FORMAT}", hint=hint)
        known = {each.name: content[each.name] for each in fields(Failure)}
        lists = {name: tuple(map(str, known[name])) for name in ("patterns", "by_hand")}
        read = Failure(**{**known, **lists, "fault": Fault(**known["fault"])})
        if set(read.options) != _OPTIONS:
            raise ValueError(f"options are {', '.join(read.options)}")
        if any(Path(file).is_absolute() or ".." in Path(file).parts for file in read.patterns):
            raise ValueError("a pattern lies outside of the folder")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}", hint=hint) from error
    return read


def _said(message: str) -> str:
    """The first line, without numbers and folders."""
    return _NUMBER.sub("#", _FOLDERS.sub("", (message.splitlines() or [""])[0]))
