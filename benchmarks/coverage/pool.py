"""Runs a function for many names in processes of their own, several at a time.

A crash or a hang costs only its own name. Processes are forked from a server that has imported what they need, so that
each starts in a moment.
"""

import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

# Installed packages alone: the server of Python 3.11 does not look beside the script.
PRELOADED = (
    "autoconvert.driver.convert",
    "litert_torch.generative.custom_ops.dynamic_update_slice",
    "transformers.models.llama.modeling_llama",
    "ai_edge_litert.interpreter",
    "rich.console",
)


@dataclass(frozen=True)
class Ended:
    """How a name ended: with the function's `value`, or without one and a `problem`."""

    name: str
    seconds: float
    value: Any = None
    problem: str = ""


@dataclass
class _Worker:
    """A process, and the name it works on: one of `taken` so far."""

    process: ForkServerProcess
    messages: Connection
    name: str = ""
    begun: float = 0.0
    taken: int = 0

    def give(self, name: str) -> None:
        self.name, self.begun = name, time.perf_counter()
        self.taken += 1
        self.messages.send(name)


def run_all(
    names: Sequence[str],
    module: str,
    function: str,
    arguments: Sequence[Any] = (),
    *,
    jobs: int,
    timeout: float,
    each: int = 1,
    preload: Sequence[str] = PRELOADED,
) -> Iterator[Ended]:
    """Calls `function` of `module` with each of `names` and `arguments`; gives the ends as they come.

    At most `jobs` run at a time, and each name is given `timeout` seconds. A process takes up to `each` names, one
    after another; one that fails is its last.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with silence():
        multiprocessing.forkserver.ensure_running()
    pending = list(reversed(names))
    workers: list[_Worker] = []
    try:
        while pending or workers:
            while pending and len(workers) < jobs:
                workers.append(_start(context, module, function, arguments))
                workers[-1].give(pending.pop())
            multiprocessing.connection.wait([worker.messages for worker in workers], timeout=1.0)
            for worker in list(workers):
                if (ended := _ended(worker, timeout)) is None:
                    continue
                if pending and worker.taken < each and not ended.problem:
                    worker.give(pending.pop())
                else:
                    workers.remove(worker)
                    _stop(worker)
                yield ended
    finally:
        for worker in workers:
            _stop(worker)


def _start(context: ForkServerContext, module: str, function: str, arguments: Sequence[Any]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, module, function, arguments), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(messages: Connection, module: str, function: str, arguments: Sequence[Any]) -> None:
    while True:
        try:
            name = messages.recv()
        except EOFError:
            return
        try:
            result = (getattr(importlib.import_module(module), function)(name, *arguments), "")
        except Exception as error:
            result = (None, f"{type(error).__name__}: {error}")
        messages.send(result)


def _ended(worker: _Worker, timeout: float) -> Ended | None:
    seconds = time.perf_counter() - worker.begun
    value, problem = None, f"not done after {timeout:.0f} seconds"
    if worker.messages.poll():
        try:
            value, problem = worker.messages.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join(10)
            problem = f"the process ended with {worker.process.exitcode}"
    elif seconds <= timeout:
        return None
    return Ended(worker.name, seconds, value, problem)


def _stop(worker: _Worker) -> None:
    worker.messages.close()
    worker.process.join(0.5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


@contextmanager
def silence() -> Iterator[None]:
    """Output from Python and C++ goes nowhere, also that of processes started within."""
    saved = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, nowhere):
            os.close(descriptor)
