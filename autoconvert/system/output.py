"""The output folder: everything is written beside its final place and moved there when all of it is right."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from autoconvert.errors import InputError, MachineError


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home folder that it stands for. Raises InputError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}", hint="write the path out") from error


@dataclass(frozen=True)
class Publish:
    """Moves finished files to their names in `folder`, replacing what was there."""

    folder: Path

    def __call__(self, files: Mapping[str, Path]) -> dict[str, Path]:
        return {name: file.replace(self.folder / file.name) for name, file in files.items()}


def refuse_folders_in_the_way(folder: Path, names: Iterable[str], option: str = "-o") -> None:
    """Raise MachineError where a folder lies at one of the `names` of files that will go to `folder`."""
    for name in names:
        if (folder / name).is_dir():
            raise MachineError(
                f"Cannot write to {folder / name}: a folder of that name is in the way.",
                hint=f"Remove it, or choose another {option}.",
            )


@contextmanager
def output_folder(folder: Path, option: str = "-o") -> Iterator[tuple[Path, Publish]]:
    """A temporary folder on the same disk as `folder`, which a person chose by `option`, and how to publish from it.

    Whatever happens, the temporary folder goes; a folder that was made and stayed empty goes as well. What a killed
    process could not remove goes with the next use of `folder`.

    Raises:
        MachineError: the folder cannot be made or written to, or the disk is full.
    """
    missing = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as temporary, _locked(Path(temporary)):
            yield Path(temporary), Publish(folder)
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise MachineError(
            f"Cannot write to {folder}: {_REASONS[error.errno]}.", hint=f"Choose another {option}."
        ) from error
    finally:
        for made in missing:
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()


_PREFIX = ".autoconvert-"
_REASONS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the disk is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EEXIST: "a file of that name is in the way",
    errno.EISDIR: "a folder of that name is in the way",
    errno.EIO: "the disk cannot be written to",
    errno.EFBIG: "a file would be larger than is allowed (`ulimit -f`)",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
}


def _missing(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist yet, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A stream to write and read, under a temporary name beside `path` until it ends without an exception."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w+b") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, which the system gives back however this process ends.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary folders of processes that are no more."""
    for temporary in folder.glob(f"{_PREFIX}*"):
        with suppress(BlockingIOError, FileNotFoundError), _locked(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
