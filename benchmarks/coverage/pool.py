"""Runs every type in a process of its own, several at a time; a crash or a hang costs only that type.

Processes are forked from a server that has imported everything, so that each starts in a moment.
"""

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

from outcome import Outcome, Stage

# Installed packages alone: before Python 3.11.10 or so the server does not look beside the script.
_PRELOADED = [
    "autoconvert.convert",
    "litert_torch.generative.custom_ops.dynamic_update_slice",
    "transformers.models.llama.modeling_llama",
    "ai_edge_litert.interpreter",
    "rich.console",
]


@dataclass
class _Running:
    model_type: str
    process: ForkServerProcess
    results: Connection
    begun: float


def run_all(types: Sequence[str], stage: Stage, jobs: int, timeout: float) -> Iterator[Outcome]:
    """The outcome of each of `types` as it comes; at most `jobs` at a time, each given `timeout` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with _silence():
        multiprocessing.forkserver.ensure_running()
    pending = list(reversed(types))
    running: list[_Running] = []
    try:
        while pending or running:
            while pending and len(running) < jobs:
                running.append(_start(context, pending.pop(), stage))
            multiprocessing.connection.wait([r.results for r in running], timeout=1.0)
            for one in list(running):
                if (outcome := _finished(one, timeout)) is not None:
                    running.remove(one)
                    yield outcome
    finally:
        for one in running:
            _stop(one)


def _start(context: ForkServerContext, model_type: str, stage: Stage) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(model_type, stage, sender), daemon=True)
    process.start()
    sender.close()
    return _Running(model_type, process, receiver, time.perf_counter())


def _work(model_type: str, stage: Stage, results: Connection) -> None:
    try:
        from examine import examine

        outcome = examine(model_type, stage)
    except Exception as error:
        outcome = Outcome(model_type, "failed", f"{type(error).__name__}: {error}")
    results.send(outcome)
    results.close()


@contextmanager
def _silence() -> Iterator[None]:
    """What is started within inherits an output that goes nowhere: converters print from Python and C++."""
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


def _finished(one: _Running, timeout: float) -> Outcome | None:
    """What came out of a process, if it ended or has to."""
    seconds = time.perf_counter() - one.begun
    if one.results.poll():
        try:
            outcome: Outcome = one.results.recv()
            one.process.join(10)
        except EOFError:
            one.process.join(10)
            outcome = Outcome(
                one.model_type, "failed", f"the process ended with {one.process.exitcode}", seconds=seconds
            )
    elif seconds > timeout:
        outcome = Outcome(one.model_type, "failed", f"not done after {timeout:.0f} seconds", seconds=seconds)
    else:
        return None
    _stop(one)
    return outcome


def _stop(one: _Running) -> None:
    if one.process.is_alive():
        one.process.kill()
        one.process.join()
    one.results.close()
