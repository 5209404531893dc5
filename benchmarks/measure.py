"""What a command costs: wall time, processor time and the memory of all its processes."""

import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Cost:
    """What a command cost from its start to its exit.

    `peak_bytes` is the largest sum, over the command's process and all its descendants, of resident memory at
    one sample. A page that two processes share counts twice in the sum; mapped files count while they are
    resident. `anonymous_bytes` is the same without pages of files, by which weights are mapped (Linux; 0 elsewhere).
    `cpu_seconds` is user and system time, of every process that was waited for.
    """

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    anonymous_bytes: int = 0


def measure(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    interval: float = 0.05,
) -> Cost:
    """Run `command` to its end, its output to `log`, sampling memory every `interval` seconds.

    `environment` is added to this process's own. Processor time is that of this process's children, so run
    one measurement at a time. If the run is interrupted, the command and its descendants are killed.
    """
    with log.open("wb") as output:
        cpu_before = _children_cpu_seconds()
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        tree = _ProcessTree(process.pid)
        done = threading.Event()
        sampler = threading.Thread(target=tree.watch, args=(done, interval), daemon=True)
        sampler.start()
        try:
            exit_code = process.wait()
            wall_seconds = time.perf_counter() - start
        except BaseException:
            tree.kill()
            process.wait()
            raise
        finally:
            done.set()
            sampler.join()
    return Cost(exit_code, wall_seconds, _children_cpu_seconds() - cpu_before, tree.peak_bytes, tree.anonymous_bytes)


def forget_cached(files: Iterable[Path]) -> None:
    """Ask the kernel to drop `files` from its page cache, so that the next read is from the disk (Linux)."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(files: Iterable[Path]) -> float:
    """The time to read `files` from the disk, one after the other."""
    files = list(files)
    forget_cached(files)
    buffer = bytearray(_BLOCK_BYTES)
    start = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def write_seconds(size: int, folder: Path) -> float:
    """The time until a new file of `size` bytes in `folder` is on the disk; the file is removed again."""
    block = os.urandom(_BLOCK_BYTES)
    path = folder / "write-floor.bin"
    try:
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for position in range(0, size, _BLOCK_BYTES):
                file.write(block[: size - position])
            os.fsync(file.fileno())
        return time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)


class _ProcessTree:
    """A process and every descendant seen so far: one that its parent left behind still counts."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = self.anonymous_bytes = 0
        self._root = psutil.Process(pid)
        self._members: set[psutil.Process] = {self._root}

    def watch(self, done: threading.Event, interval: float) -> None:
        while True:
            self._grow()
            self.peak_bytes = max(self.peak_bytes, self._resident_bytes())
            self.anonymous_bytes = max(self.anonymous_bytes, sum(map(_anonymous_bytes, self._members)))
            if done.wait(interval):
                return

    def kill(self) -> None:
        self._grow()
        for member in self._members:
            with suppress(psutil.NoSuchProcess):
                member.kill()

    def _grow(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self._members = self._members | set(self._root.children(recursive=True))

    def _resident_bytes(self) -> int:
        total = 0
        for member in self._members:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += member.memory_info().rss
        return total


def _anonymous_bytes(process: psutil.Process) -> int:
    """By the line `RssAnon` of a process's status, in kB; 0 where it has none."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
