"""The compile cache: weightless graphs by everything that decides them, so that other weights only need to be linked.

An entry is addressed by the configuration and the shapes of the module, the values of its buffers and of whatever else
its parts hold, all code that it rests on (`driver/fingerprint.py`), that of patterns from outside and of this compiler,
the lengths asked for, and the versions of what compiles. Nothing in a key says when or where, so a stale entry is never
found: it is only no longer asked for, and goes when the cache is full.
"""

import hashlib
import json
import os
import pickle
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import platformdirs
from torch import nn

from autoconvert.analysis.constants import content
from autoconvert.driver.compilation import Compilation
from autoconvert.driver.fingerprint import ORIGIN, fingerprint
from autoconvert.driver.library import Library, digests
from autoconvert.driver.settings import Settings
from autoconvert.source.source import Source
from autoconvert.system.output import whole_file

FOLDER_VARIABLE = "AUTOCONVERT_CACHE"
_LARGEST_CACHE = 1 << 30
_SUFFIX = ".compiled"
_DIGEST_SIZE = hashlib.sha256().digest_size
_COMPILERS = ("torch", "transformers", "litert-torch", "litert-converter", "ai-edge-litert")


def cache_folder() -> Path:
    """Where entries are: the folder that AUTOCONVERT_CACHE names, or the user's cache folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("autoconvert"))


def key_of(source: Source, settings: Settings, outside: Iterable[Library] = ()) -> str | None:
    """The hex digest of all that decides what `source` compiles to; None where nobody can say what that is.

    A module in memory is made by a person's hands, and so may a pattern be; one from a file does what the file says.
    Code that is in no file, or that runs what it computes, may do anything.
    """
    patterns = digests(outside)
    if not source.is_built or source.config is None or patterns is None:
        return None
    classes = _modules_of_classes(source.module)
    made_of = fingerprint([source.module, source.config, *classes], source.folder)
    if made_of is None:
        return None
    config = source.config.to_dict()
    facts = {
        "config": {name: value for name, value in config.items() if name not in ORIGIN},
        "lengths": (settings.context, settings.chose_context, settings.prefill, settings.chose_prefill),
        "parameters": _parameters(source.module),
        "buffers": _buffers(source.module),
        "made of": made_of,
        "code": _digest_of_files([*_own_files(), *(Path(str(each.__file__)) for each in classes if each.__file__)]),
        "patterns": patterns,
        "versions": [sys.version, *(version(package) for package in _COMPILERS)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def load(key: str) -> Compilation | None:
    """The entry of `key`; None where there is none, or where it is damaged, which removes it."""
    path = _path(key)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, pickled = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if hashlib.sha256(pickled).digest() != digest:
        path.unlink(missing_ok=True)
        return None
    # What the digest vouches for was written here, by the same code: its hash is in the key.
    compilation: Compilation = pickle.loads(pickled)
    _used_now(path)
    return compilation


def store(key: str, compilation: Compilation) -> None:
    """Keeps `compilation` under `key`; a folder that cannot be written to is no reason to fail."""
    path = _path(key)
    pickled = pickle.dumps(compilation)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(hashlib.sha256(pickled).digest() + pickled)
        _used_now(path)
        _make_room(path.parent)
    except OSError:
        return


def _path(key: str) -> Path:
    return cache_folder() / f"{key}{_SUFFIX}"


def _used_now(path: Path) -> None:
    # The system's own stamps are ticks of some milliseconds, in which two entries may be used.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _make_room(folder: Path) -> None:
    """Removes the entries that were not used for longest, until the others fit."""
    entries = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    size = 0
    for entry in entries:
        size += entry.stat().st_size
        if size > _LARGEST_CACHE:
            entry.unlink(missing_ok=True)


def _parameters(module: nn.Module) -> list[tuple[object, ...]]:
    """Names, types and shapes; those that are one parameter have one number."""
    numbers: dict[int, int] = {}
    return [
        (name, str(parameter.dtype), *parameter.shape, numbers.setdefault(id(parameter), len(numbers)))
        for name, parameter in module.named_parameters(remove_duplicate=False)
    ]


def _buffers(module: nn.Module) -> list[tuple[object, ...]]:
    """Names, types, shapes and values: buffers are constants of the graph, wherever they came from."""
    return [
        (name, str(buffer.dtype), *buffer.shape, hashlib.sha256(content(buffer)).hexdigest())
        for name, buffer in module.named_buffers()
    ]


def _modules_of_classes(module: nn.Module) -> list[ModuleType]:
    names = sorted({type(part).__module__ for part in module.modules()})
    return [sys.modules[name] for name in names if name in sys.modules]


def _own_files() -> Iterator[Path]:
    # The three folders beside the package are links in it, which pathlib's globs do not follow.
    for folder, _, names in os.walk(Path(__file__).parents[1], followlinks=True):
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _digest_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
