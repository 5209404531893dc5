"""Processes that lower, so that importing the converter and lowering overlap with tracing and checking.

Processes of our own, and not multiprocessing, because that runs the caller's main module again. The first imports what
all need and then splits, so that the time and the memory of it are spent once.
"""

import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.errors import AutoconvertError
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import module_path
from autoconvert.ir.target import Target
from autoconvert.lowering.litert import lower, quiet
from autoconvert.system.memory import collect_seldom, collecting_later

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
Modules = list[str | None]
Task = tuple[str, fx.GraphModule, Shapes, Modules, Target]

_PROCESSES = 2
# What a process says once it can be given something to lower.
_READY = "ready"


class Workers:
    """Lowers programs, some at a time, in other processes; `channels` lead to one each."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: BinaryIO, channels: Sequence["_Channel"]) -> None:
        self._process, self._log, self._first = process, log, channels[0]
        self._free: SimpleQueue[_Channel] = SimpleQueue()
        for channel in channels:
            self._free.put(channel)
        self._threads = ThreadPoolExecutor(len(channels), thread_name_prefix="lower")

    def lower(self, name: str, program: Program, target: Target) -> "Future[bytes]":
        """As litert.lower, later; raises what it raised there."""
        shapes = {
            str(node.target): (tuple(node.meta["val"].shape), node.meta["val"].dtype)
            for node in program.graph.graph.find_nodes(op="placeholder")
        }
        modules = [module_path(node) for node in _calls(program.graph)]
        return self._threads.submit(self._exchange, (name, program.graph, shapes, modules, target))

    def close(self) -> None:
        """Ends what is under way."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._threads.shutdown(cancel_futures=True)

    def _exchange(self, task: Task) -> bytes:
        channel = self._channel()
        try:
            channel.send(task)
            result = channel.receive()
        except (OSError, EOFError) as error:
            raise AutoconvertError(
                f"The process that lowers {task[0]} ended{self._code()}: {self._last_words()}",
                hint="Without last words it was probably stopped for lack of memory.",
            ) from error
        finally:
            self._free.put(channel)
        if isinstance(result, BaseException):
            raise result
        return bytes(result)

    def _channel(self) -> "_Channel":
        """One whose process waits for a task, or has ended."""
        while True:
            channel = self._free.get()
            # Where the first process could not split, it serves alone.
            if channel.is_ready or channel.becomes_ready() or channel is self._first:
                return channel

    def _code(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            return f" with {self._process.wait(timeout=1)}"
        return ""

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing."


class _Channel:
    """One end of a connection, on which pickled objects go back and forth."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rwb")
        self.is_ready = False

    def becomes_ready(self) -> bool:
        """Whether the other end says so, and does not hang up."""
        with suppress(OSError, EOFError):
            self.is_ready = self.receive() == _READY
        return self.is_ready

    def send(self, what: object) -> None:
        pickle.dump(what, self._stream)
        self._stream.flush()

    def receive(self) -> Any:
        """Raises EOFError where the other end is closed."""
        return pickle.load(self._stream)

    def close(self) -> None:
        # What was not sent to a process that has ended.
        with suppress(OSError):
            self._stream.close()


@contextmanager
def start_workers() -> Iterator[Workers]:
    """Starts the processes, which begin to import at once; ends them on leaving."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        pairs = [socket.socketpair() for _ in range(_PROCESSES)]
        channels = [stack.enter_context(closing(_Channel(stack.enter_context(ours)))) for ours, _ in pairs]
        theirs = [connection.fileno() for _, connection in pairs]
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=theirs,
            # Threads of numpy, which has nothing to multiply there, would keep the process from splitting.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            # A process group of its own: an interrupt is ours to handle.
            process_group=0,
        )
        stack.enter_context(process)
        for _, connection in pairs:
            connection.close()
        yield stack.enter_context(closing(Workers(process, log, channels)))


def with_modules(graph: fx.GraphModule, modules: Modules) -> fx.GraphModule:
    """Gives every call the module that it comes from, which a graph loses as well."""
    for node, path in zip(_calls(graph), modules, strict=True):
        if path is not None:
            node.meta["nn_module_stack"] = {"": (f"decoder.{path}".removesuffix("."), "")}
    return graph


def _calls(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "call_function"]


def with_values(graph: fx.GraphModule, shapes: Shapes) -> fx.GraphModule:
    """Gives every node its fake value, which a graph loses on the way between processes."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                size, dtype = shapes[str(node.target)]
                node.meta["val"] = torch.empty(size, dtype=dtype)
            elif node.op == "get_attr":
                node.meta["val"] = mode.from_tensor(getattr(graph, str(node.target)))
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
                value: Tensor = node.target(*args, **kwargs)
                node.meta["val"] = value
    return graph


def _serve(channel: _Channel) -> None:
    channel.send(_READY)
    while True:
        try:
            name, graph, shapes, modules, target = channel.receive()
        except EOFError:
            return
        try:
            with collecting_later():
                program = Program(with_modules(with_values(graph, shapes), modules))
                result: bytes | BaseException = lower(name, program, target)
        except Exception as error:
            result = error
        channel.send(result)


def _may_split() -> bool:
    """Whether this process has one thread: what another one held would be held for ever in a copy of the process."""
    threads = Path("/proc/self/task")
    return threads.is_dir() and len(list(threads.iterdir())) == 1


def _serve_all(descriptors: Sequence[int]) -> None:
    collect_seldom()
    with quiet():
        import litert_torch  # noqa: F401  registers the operations that graphs name
    # Whatever is looked through for garbage is no longer shared.
    gc.freeze()
    connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    mine = next((each for each in connections[1:] if _may_split() and os.fork() == 0), connections[0])
    for connection in connections:
        if connection is not mine:
            connection.close()
    _serve(_Channel(mine))


if __name__ == "__main__":
    _serve_all(list(map(int, sys.argv[1:])))
    # What is left is memory, and native libraries take long to give it back piece by piece.
    os._exit(0)
