"""Runs a function for many names, each in a process of its own, several at a time.

A crash or a hang costs only that name. Processes are forked from a server that has imported what they need, so that
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
class _Running:
    name: str
    process: ForkServerProcess
    results: Connection
    begun: float


def run_all(
    names: Sequence[str],
    module: str,
    function: str,
    arguments: Sequence[Any] = (),
    *,
    jobs: int,
    timeout: float,
    preload: Sequence[str] = PRELOADED,
) -> Iterator[Ended]:
    """Calls `function` of `module` with each of `names` and `arguments`; gives the ends as they come.

    At most `jobs` run at a time, and each is given `timeout` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with silence():
        multiprocessing.forkserver.ensure_running()
    pending = list(reversed(names))
    running: list[_Running] = []
    try:
        while pending or running:
            while pending and len(running) < jobs:
                running.append(_start(context, pending.pop(), module, function, arguments))
            multiprocessing.connection.wait([one.results for one in running], timeout=1.0)
            for one in list(running):
                if (ended := _ended(one, timeout)) is not None:
                    running.remove(one)
                    yield ended
    finally:
        for one in running:
            _stop(one)


def _start(context: ForkServerContext, name: str, module: str, function: str, arguments: Sequence[Any]) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, name, module, function, arguments), daemon=True)
    process.start()
    sender.close()
    return _Running(name, process, receiver, time.perf_counter())


def _work(results: Connection, name: str, module: str, function: str, arguments: Sequence[Any]) -> None:
    try:
        result = (getattr(importlib.import_module(module), function)(name, *arguments), "")
    except Exception as error:
        result = (None, f"{type(error).__name__}: {error}")
    results.send(result)
    results.close()


def _ended(one: _Running, timeout: float) -> Ended | None:
    seconds = time.perf_counter() - one.begun
    value, problem = None, f"not done after {timeout:.0f} seconds"
    if one.results.poll():
        try:
            value, problem = one.results.recv()
        except EOFError:
            one.process.join(10)
            problem = f"the process ended with {one.process.exitcode}"
    elif seconds <= timeout:
        return None
    _stop(one)
    return Ended(one.name, seconds, value, problem)


def _stop(one: _Running) -> None:
    one.process.join(0.5)
    if one.process.is_alive():
        one.process.kill()
        one.process.join()
    one.results.close()


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
