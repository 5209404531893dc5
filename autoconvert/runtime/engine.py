"""The LiteRT-LM engine as a context: quiet, with a weight cache that leaves nothing behind."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import litert_lm

from autoconvert.errors import InputError, MachineError

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
        with captured_stderr() as said:
            try:
                engine = litert_lm.Engine(str(bundle), litert_lm.Backend.CPU(thread_count=threads), cache_dir=cache)
            except RuntimeError as error:
                reason = str(error)
            else:
                reason = ""
        if reason:
            raise RuntimeFailed(
                f"the runtime cannot load {bundle}: {first_error(said) or reason}",
                hint="If it was written by another tool or version, convert the model again.",
            )
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


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """What anything in this process writes to file descriptor 2 meanwhile, as lines, after the block."""
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            lines.extend(sink.read().decode("utf-8", "replace").splitlines())


def first_error(lines: list[str]) -> str:
    """What the first error in the runtime's log says, without the time and place that a line starts with."""
    return next((line.partition("] ")[2] for line in lines if line.startswith("E") and "] " in line), "")
