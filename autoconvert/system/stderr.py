"""File descriptor 2, to which libraries in C++ write past Python's `sys.stderr`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def redirected_stderr(file: BinaryIO) -> Iterator[BinaryIO]:
    """What this process writes to file descriptor 2 goes to `file` meanwhile; gives the real stderr, unbuffered."""
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "wb", buffering=0) as real:
        os.dup2(file.fileno(), 2)
        try:
            yield real
        finally:
            sys.stderr.flush()
            os.dup2(real.fileno(), 2)
