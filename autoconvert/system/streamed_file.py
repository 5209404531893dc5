"""A large file written once, front to back, that appears under its name only when it is whole."""

import errno
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from autoconvert.errors import MachineError

_HINTS = {
    errno.ENOSPC: "Free some space on that disk or choose another output folder.",
    errno.EDQUOT: "Free some of your disk quota or choose another output folder.",
    errno.EACCES: "Choose an output folder that you may write to.",
    errno.EPERM: "Choose an output folder that you may write to.",
    errno.EROFS: "Choose an output folder that you may write to.",
    errno.ENOENT: "Create the output folder first.",
    errno.EIO: "The disk may be damaged; choose an output folder on another one.",
    errno.EFBIG: "Raise the limit of a file's size (`ulimit -f`), or choose a disk that holds larger files.",
}


class StreamedFile:
    """A context that writes to a temporary name beside `path` and renames at its end.

    On any exception, an interrupt too, the temporary file is removed and what was at `path` stays. Raises
    MachineError when the disk has no room for `size` bytes or the system refuses a write.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._size = size
        self._file: BinaryIO

    def __enter__(self) -> "StreamedFile":
        try:
            free = shutil.disk_usage(self._path.parent).free
            if free < self._size:
                raise MachineError(
                    f"{self._path} needs {_megabytes(self._size)} and its disk has {_megabytes(free)} left",
                    hint=_HINTS[errno.ENOSPC],
                )
            self._file = self._partial.open("wb")
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                self._file.close()
                if kind is None:
                    self._partial.replace(self._path)
            finally:
                self._partial.unlink(missing_ok=True)
        except OSError as failure:
            if kind is None:
                raise self._failure(failure) from failure

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`; what lies between the end and a later offset reads as zeros."""
        try:
            if self._file.tell() != offset:
                self._file.seek(offset)
            self._file.write(data)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> MachineError:
        reason = error.strerror or str(error)
        return MachineError(f"cannot write {self._path}: {reason}", hint=_HINTS.get(error.errno or 0, ""))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
