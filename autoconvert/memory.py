"""Memory that is free in this process, but not yet to others."""

import ctypes
import gc


def give_back() -> None:
    """Gives the system what Python holds no more and the allocator keeps; without glibc, only the first."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
