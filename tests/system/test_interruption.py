"""A request to end is not lost, whatever runs when it arrives."""

import signal
import subprocess
import sys

import pytest

SWALLOWED = """
import os, signal
from autoconvert.report.progress import Silent, Timeline
from autoconvert.system.interruption import raise_interrupts

class Dies:
    def __del__(self):
        os.kill(os.getpid(), signal.{request})

raise_interrupts()
stages = Timeline(Silent())
try:
    with stages.stage("rewrite"):
        Dies()
        print("swallowed")
    print("lost")
except KeyboardInterrupt:
    print("seen")
"""


@pytest.mark.parametrize("request_", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_that_a_finalizer_swallows_ends_the_stage(request_: str) -> None:
    code = SWALLOWED.format(request=request_)

    def heard() -> None:
        signal.signal(getattr(signal, request_), signal.SIG_DFL)

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=heard, timeout=60)
    assert ran.stdout.splitlines() == ["swallowed", "seen"]


def test_what_is_ignored_stays_ignored() -> None:
    code = (
        "import os, signal; from autoconvert.system.interruption import raise_interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); raise_interrupts(); os.kill(os.getpid(), signal.SIGHUP)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
