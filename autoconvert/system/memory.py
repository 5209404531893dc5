"""When Python looks for garbage, and when what is free goes back to the system."""

import atexit
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt in glibc's malloc.h.
_M_MMAP_THRESHOLD = -3


def collect_seldom() -> None:
    """For a process of our own: a million imported objects are seldom looked through, and not at the end."""
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)


@contextmanager
def collecting_later() -> Iterator[None]:
    """Graphs are millions of objects that stay: looking for garbage among them takes a tenth of making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def give_back() -> None:
    """Gives the system what Python holds no more, and what the allocator keeps. A big graph is full of circles."""
    gc.collect()
    trim()


def trim() -> None:
    """Gives the system what the allocator keeps; without glibc, nothing."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Blocks of a megabyte and more go back to the system when they are freed, and not when the allocator sees fit.

    Each then costs new pages. Without glibc, nothing is changed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(_M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        # The most that glibc would have come to by itself.
        set_option(_M_MMAP_THRESHOLD, 32 << 20)
