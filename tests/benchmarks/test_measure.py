"""The cost of a command is that of all its processes."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType

import psutil
import pytest
from measure import measure, read_seconds, write_seconds

MEGABYTE = 1 << 20
PARENT_AND_CHILD = """
import subprocess, sys, time
block = bytearray(b"x") * (int(sys.argv[1]) << 20)
if len(sys.argv) > 2:
    subprocess.run([sys.executable, "-c", sys.argv[3], sys.argv[2]], check=True)
time.sleep(0.3)
"""


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def test_memory_is_summed_over_parent_and_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    alone = measure(python(PARENT_AND_CHILD, "1"), log).peak_bytes
    both = measure(python(PARENT_AND_CHILD, "100", "200", PARENT_AND_CHILD), log).peak_bytes
    assert 300 * MEGABYTE < both < 300 * MEGABYTE + 3 * alone


def test_processor_time_includes_the_child(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    cost = measure(python(program), tmp_path / "log")
    assert 0.4 <= cost.cpu_seconds < 2


def test_wall_time_includes_sleeping(tmp_path: Path) -> None:
    cost = measure(python("import time; time.sleep(0.4)"), tmp_path / "log")
    assert cost.wall_seconds >= 0.4
    assert cost.cpu_seconds < cost.wall_seconds


def test_exit_code_output_and_environment_are_the_command_s(tmp_path: Path) -> None:
    program = "import os, sys; print(os.environ['LENGTH']); sys.stderr.write('why'); sys.exit(3)"
    cost = measure(python(program), tmp_path / "log", environment={"LENGTH": "1280"})
    assert cost.exit_code == 3
    assert set((tmp_path / "log").read_text().split()) == {"1280", "why"}


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        with pytest.raises(KeyboardInterrupt):
            measure(python(program), tmp_path / "log")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    child = int((tmp_path / "log").read_text())
    # A busy machine takes a moment to end what was killed.
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_the_disk_s_floor_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * MEGABYTE)
    assert write_seconds(MEGABYTE + 1, tmp_path) > 0
    assert read_seconds([file]) > 0
    assert list(tmp_path.iterdir()) == [file]
