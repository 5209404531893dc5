"""Requests to end: raised where they arrive, and again between two stages of work where something swallowed them.

Python drops a KeyboardInterrupt that arrives inside a finalizer, and libraries have handlers that catch everything.
"""

import signal
from types import FrameType

_asked = False


def raise_interrupts() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, but for those that this process ignores."""
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` has the last ignored, and means it; so has a shell the first for what runs in the background.
        if signal.getsignal(request) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(request, _interrupt)


def raise_if_interrupted() -> None:
    """KeyboardInterrupt where one was raised before, which whoever runs on has not seen."""
    if _asked:
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt
