"""The LiteRT-LM engine, in this process or in one of its own: quiet, with a weight cache that leaves nothing behind."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import litert_lm

from autoconvert.errors import InputError
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.packed_weights import packed_weights
from autoconvert.system.remote import Died, Remote, remote
from autoconvert.system.stderr import redirected_stderr

GREEDY = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)


class Asked:
    """A bundle in the engine of another process, where native code may die; all that it is asked is pickled."""

    def __init__(self, bundle: Path, loaded: Remote) -> None:
        self._bundle, self._loaded = bundle, loaded

    def ask(self, question: Callable[..., Any], *args: object) -> Any:
        """What `question(engine, *args)`, a function at the top of a module, gives or raises over there.

        Raises RuntimeFailed where the engine dies of it.
        """
        return self._call("ask", question, *args)

    def pieces(self, question: Callable[..., Iterator[Any]], *args: object) -> Iterator[Any]:
        """The same for a generator, a piece at a time; None is no piece."""
        self._call("begin", question, *args)
        while (piece := self._call("next")) is not None:
            yield piece

    def _call(self, method: str, *args: object) -> Any:
        try:
            return self._loaded.call(method, *args)
        except Died as death:
            raise RuntimeFailed(
                f"the runtime dies of {self._bundle}: {death}",
                hint="If it was written by another tool or version, convert the model again.",
            ) from death


@contextmanager
def open_remote_engine(bundle: Path, *, threads: int | None = None, packed: Path | None = None) -> Iterator[Asked]:
    """As `open_engine`, in a process of its own; `packed` is the folder of this bundle's packed weights."""
    with (
        packed_weights(packed) as folder,
        remote(_Engine, bundle, folder, threads) as loaded,
    ):
        yield Asked(bundle, loaded)


class _Engine:
    """The object in the other process."""

    def __init__(self, bundle: Path, cache: Path, threads: int | None) -> None:
        self._open = ExitStack()
        self._engine = self._open.enter_context(_engine(bundle, cache, threads))
        self._pieces: Iterator[Any] = iter(())

    def ask(self, question: Callable[..., Any], *args: object) -> Any:
        return question(self._engine, *args)

    def begin(self, question: Callable[..., Iterator[Any]], *args: object) -> None:
        self._pieces = question(self._engine, *args)

    def next(self) -> Any:
        return next(self._pieces, None)


@contextmanager
def open_engine(bundle: Path, *, threads: int | None = None) -> Iterator[litert_lm.Engine]:
    """The engine that runs `bundle` on the cpu, closed at the end; `threads` None lets it choose.

    The weight cache, as large as the bundle, goes to a temporary folder that is removed.
    Raises InputError if there is no such file, RuntimeFailed with what the runtime said if it cannot load it.
    """
    with packed_weights() as cache, _engine(bundle, cache, threads) as engine:
        yield engine


@contextmanager
def _engine(bundle: Path, cache: Path, threads: int | None) -> Iterator[litert_lm.Engine]:
    if not bundle.is_file():
        raise InputError(f"there is no bundle at {bundle}", hint="Give the path of a .litertlm file.")
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    with tempfile.TemporaryFile() as log:
        try:
            with redirected_stderr(log):
                engine = litert_lm.Engine(
                    str(bundle), litert_lm.Backend.CPU(thread_count=threads), cache_dir=str(cache)
                )
        except RuntimeError as error:
            raise RuntimeFailed(
                f"the runtime cannot load {bundle}: {first_error(log) or error}",
                hint="If it was written by another tool or version, convert the model again.",
            ) from error
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.SILENT)
    with engine:
        yield engine


def first_error(log: BinaryIO) -> str:
    """What the first error in the runtime's log says, without the time and place that a line starts with."""
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return next((line.partition("] ")[2] for line in lines if line.startswith("E") and "] " in line), "")
