import gc
import subprocess
import sys

import pytest

from autoconvert.system.memory import collecting_later

_FREES_ALL_BUT_THE_LAST = """
import psutil, torch
from autoconvert.system.memory import give_back

pieces = [torch.empty(1000) for _ in range(50_000)]
kept = pieces.pop()
pieces.clear()
before = psutil.Process().memory_info().rss
give_back()
print(before - psutil.Process().memory_info().rss)
"""


def test_what_is_free_goes_back_to_the_system() -> None:
    run = subprocess.run([sys.executable, "-c", _FREES_ALL_BUT_THE_LAST], check=True, capture_output=True, text=True)
    assert int(run.stdout) > 100 << 20


def test_garbage_is_looked_for_again_whatever_happened() -> None:
    with pytest.raises(ValueError, match="wrong"), collecting_later():
        assert not gc.isenabled()
        raise ValueError("wrong")
    assert gc.isenabled()


def test_a_process_of_our_own_ends_without_looking_through_what_it_imported() -> None:
    program = (
        "import atexit, gc; from autoconvert.system.memory import collect_seldom; "
        "atexit.register(lambda: print(gc.get_freeze_count() > 0)); collect_seldom(); print(gc.isenabled())"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "True"]


def test_what_is_freed_leaves_the_process_at_once() -> None:
    code = (
        "import ctypes, psutil, numpy\n"
        "from autoconvert.system.memory import freed_at_once\n"
        "warm = numpy.ones(3 << 20); del warm\n"  # From here on glibc would keep blocks of this size.
        "def held(): return psutil.Process().memory_info().rss\n"
        "with freed_at_once():\n"
        "    before = held()\n"
        "    blocks = [(numpy.ones(1 << 18), bytearray(9000)) for _ in range(20)]\n"
        "    small = [each for _, each in blocks]\n"
        "    del blocks\n"
        "    print(held() - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 8 << 20
