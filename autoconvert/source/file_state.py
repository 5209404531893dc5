"""What says that a file is still the one that was looked at."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoconvert.errors import InputError, MachineError


@dataclass(frozen=True)
class FileState:
    """Its place on the disk, its size in bytes, and when its content changed last, nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int


def state_of(status: os.stat_result) -> FileState:
    return FileState(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def identity_of(files: Mapping[Path, FileState]) -> str:
    """What no other content of these files has, on this machine: it counts also when their entries were changed."""
    states = [path.stat() for path in files]
    return str([(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for state in states])


def require_unchanged(files: Mapping[Path, FileState]) -> None:
    """Raise InputError for a file that is another one now, MachineError for one that cannot be found."""
    for path, before in files.items():
        try:
            now = state_of(path.stat())
        except OSError as error:
            raise MachineError(
                f"{path}: cannot be read ({error.strerror})", hint="check disk and permissions"
            ) from error
        if now != before:
            raise changed(path)


def changed(path: Path) -> InputError:
    return InputError(
        f"{path}: it changed while it was converted, and what was read is of no one model",
        hint="convert again when nothing writes to it",
    )
