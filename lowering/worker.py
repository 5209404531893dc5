"""A second process that lowers, so that importing the converter and lowering overlap with tracing and checking.

A process of its own, and not multiprocessing, because that runs the caller's main module again.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

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


class Worker:
    """Lowers programs one after the other in the other process."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: BinaryIO, thread: ThreadPoolExecutor) -> None:
        self._process, self._log, self._thread = process, log, thread

    def lower(self, name: str, program: Program, target: Target) -> "Future[bytes]":
        """As litert.lower, later; raises what it raised there."""
        shapes = {
            str(node.target): (tuple(node.meta["val"].shape), node.meta["val"].dtype)
            for node in program.graph.graph.find_nodes(op="placeholder")
        }
        modules = [module_path(node) for node in _calls(program.graph)]
        return self._thread.submit(self._exchange, (name, program.graph, shapes, modules, target))

    def _exchange(self, task: Task) -> bytes:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()
            result = pickle.load(self._process.stdout)
        except (OSError, EOFError) as error:
            raise AutoconvertError(
                f"The process that lowers {task[0]} ended with {self._process.wait()}: {self._last_words()}",
                hint="Without last words it was probably stopped for lack of memory.",
            ) from error
        if isinstance(result, BaseException):
            raise result
        return bytes(result)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing."


@contextmanager
def start_worker() -> Iterator[Worker]:
    """Starts the process, which begins to import at once; ends it on leaving."""
    command = [sys.executable, "-m", "autoconvert.lowering.worker"]
    with (
        tempfile.TemporaryFile() as log,
        # A process group of its own: an interrupt is ours to handle, and closing its input ends it.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, process_group=0
        ) as process,
    ):
        thread = ThreadPoolExecutor(1, thread_name_prefix="lower")
        try:
            yield Worker(process, log, thread)
        finally:
            process.kill()
            thread.shutdown(cancel_futures=True)


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


def _serve(requests: BinaryIO, results: BinaryIO) -> None:
    collect_seldom()
    with quiet():
        import litert_torch  # noqa: F401  registers the operations that graphs name
    while True:
        try:
            name, graph, shapes, modules, target = pickle.load(requests)
        except EOFError:
            return
        try:
            with collecting_later():
                program = Program(with_modules(with_values(graph, shapes), modules))
                result: bytes | BaseException = lower(name, program, target)
        except Exception as error:
            result = error
        pickle.dump(result, results)
        results.flush()


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as output:
        # Whatever a library prints must not come between results.
        os.dup2(2, 1)
        _serve(sys.stdin.buffer, output)
