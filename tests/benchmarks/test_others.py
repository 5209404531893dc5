"""What other processes took of the processors is told apart from what the measured one took."""

import subprocess
import sys

from others import Moment, moment, share_of_others

BURN = "import time\nend = time.perf_counter() + 1\nwhile time.perf_counter() < end: pass"


def test_the_share_is_what_is_busy_and_not_ours() -> None:
    before = Moment(busy=100, ours=10, clock=0)
    # Of 2 x 10 seconds, 12 were busy, of which 9 ours.
    assert share_of_others(before, Moment(112, 19, 10), processors=2) == 3 / 20
    assert share_of_others(before, Moment(108, 19, 10), processors=2) == 0
    assert share_of_others(before, before) == 0


def test_a_child_that_was_waited_for_is_ours() -> None:
    before = moment()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    after = moment()
    assert after.ours - before.ours > 0.1
    assert after.busy - before.busy > 0.1
