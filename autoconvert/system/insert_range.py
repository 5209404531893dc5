"""Room at the front of a file, made without moving its data: `fallocate(2)` with FALLOC_FL_INSERT_RANGE (Linux)."""

import ctypes
from typing import BinaryIO

_INSERT_RANGE = 0x20


def insert_at_front(file: BinaryIO, size: int) -> bool:
    """Puts `size` bytes of zeros, whole blocks of the disk, before all else; False where disk or system cannot."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None)
    if fallocate is None:
        return False
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return int(fallocate(file.fileno(), _INSERT_RANGE, 0, size)) == 0
