"""How much of the processors other processes took: on a busy machine, figures are not worth keeping."""

import os
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Moment:
    """Seconds so far: of all processors at work, of this process with those that it waited for, and by the clock."""

    busy: float
    ours: float
    clock: float


def moment() -> Moment:
    """Now, for `share_of_others` with a later one."""
    times = psutil.cpu_times()
    # Guests count among users already.
    idle = times.idle + sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    own = os.times()
    ours = own.user + own.system + own.children_user + own.children_system
    return Moment(sum(times) - idle, ours, time.perf_counter())


def share_of_others(before: Moment, after: Moment, processors: int | None = None) -> float:
    """Between 0 and 1: the part of all processors' time that neither we nor a child of ours had, nor nobody."""
    elapsed = (after.clock - before.clock) * (processors or os.cpu_count() or 1)
    theirs = (after.busy - before.busy) - (after.ours - before.ours)
    return min(1.0, max(0.0, theirs / elapsed)) if elapsed > 0 else 0.0
