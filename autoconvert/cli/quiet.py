"""Keeps what libraries log about themselves out of a normal run."""

import faulthandler
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def silence_python() -> None:
    """Hides warnings and log lines below ERROR; call before the libraries are imported."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    # Read once, when the C++ libraries of TensorFlow and XLA are loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextmanager
def captured_stderr() -> Iterator[None]:
    """Keeps back what is written to file descriptor 2: C++ says there, unasked, that it made a delegate.

    An exception carries it as a note; if the process crashes, Python's stack goes to the real stderr.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said, os.fdopen(os.dup(2), "wb", buffering=0) as terminal:
        faulthandler.enable(terminal, all_threads=False)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except Exception as error:
            sys.stderr.flush()
            said.seek(0)
            if text := said.read().decode("utf-8", "replace").strip():
                error.add_note(f"Meanwhile the libraries wrote:\n{text}")
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)
            faulthandler.disable()
