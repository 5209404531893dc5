"""The LiteRT-LM engine as a context: quiet, with a weight cache that leaves nothing behind."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import litert_lm

from autoconvert.errors import InputError, MachineError
from autoconvert.system.stderr import redirected_stderr

GREEDY = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)


class RuntimeFailed(InputError):
    """The runtime refused a bundle or a prompt."""


@contextmanager
def open_engine(bundle: Path, *, threads: int | None = None) -> Iterator[litert_lm.Engine]:
    """The engine that runs `bundle` on the cpu, closed at the end; `threads` None lets it choose.

    The weight cache, as large as the bundle, goes to a temporary folder that is removed.
    Raises InputError if there is no such file, RuntimeFailed with what the runtime said if it cannot load it.
    """
    if not bundle.is_file():
        raise InputError(f"there is no bundle at {bundle}", hint="Give the path of a .litertlm file.")
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    with cache_folder() as cache:
        with tempfile.TemporaryFile() as log:
            try:
                with redirected_stderr(log):
                    engine = litert_lm.Engine(str(bundle), litert_lm.Backend.CPU(thread_count=threads), cache_dir=cache)
            except RuntimeError as error:
                raise RuntimeFailed(
                    f"the runtime cannot load {bundle}: {first_error(log) or error}",
                    hint="If it was written by another tool or version, convert the model again.",
                ) from error
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.SILENT)
        with engine:
            yield engine


@contextmanager
def cache_folder() -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="autoconvert-", ignore_cleanup_errors=True)
    except OSError as error:
        raise MachineError(
            f"no temporary folder for the runtime's weight cache: {error.strerror}",
            hint="Set TMPDIR to a folder with as much room as the bundle.",
        ) from error
    with folder as name:
        yield name


def first_error(log: BinaryIO) -> str:
    """What the first error in the runtime's log says, without the time and place that a line starts with."""
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return next((line.partition("] ")[2] for line in lines if line.startswith("E") and "] " in line), "")
