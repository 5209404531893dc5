"""The streams that a command writes to, also where nobody reads them any more."""

import os
import select
import sys

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process here, as a failure; `explained` ends it as what it is.
        raise BrokenPipeError


def stdout_console() -> Console:
    """What a command prints its lines on; raises BrokenPipeError where nobody reads them any more."""
    return _Console(highlight=False)


def open_what_is_closed() -> None:
    """Gives a process that was started without some of its standard streams ones that lead nowhere.

    Otherwise the next file that is opened takes the number of one, and is written to by whoever prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def is_unread() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def write_to_nobody() -> None:
    """Lets what is still to be written to standard output go nowhere, so that ending says nothing of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
