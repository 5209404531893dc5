"""A checkpoint is asked of the disk before it is needed, so that the disk works while the model is compiled."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

# Of one request Linux brings in no more than its disk's read-ahead, which is this by default.
_STEP = 128 << 10


def read_ahead(model: Path) -> Thread | None:
    """Begins to bring a file, or the safetensors or else the GGUF files of a folder, into the page cache.

    Not where they would fill half the memory.

    The thread, if there is one, ends when all is asked for. What cannot be read says so where it is read.
    """
    files = [model] if model.is_file() else sorted(model.glob("*.safetensors")) or sorted(model.glob("*.gguf"))
    size = sum(file.stat().st_size for file in files)
    if not hasattr(os, "posix_fadvise") or size > psutil.virtual_memory().available // 2:
        return None
    thread = Thread(target=_advise, args=(files,), name="read ahead", daemon=True)
    thread.start()
    return thread


def _advise(files: Sequence[Path]) -> None:
    for path in files:
        with suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for begin in range(0, size, _STEP):
                os.posix_fadvise(file.fileno(), begin, min(_STEP, size - begin), os.POSIX_FADV_WILLNEED)
