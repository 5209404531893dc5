"""Keeps what libraries log about themselves out of a normal run."""

import faulthandler
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from autoconvert.system.stderr import redirected_stderr


def silence_python() -> None:
    """Hides warnings and log lines below ERROR; call before the libraries are imported."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    # Read once, when the C++ libraries of TensorFlow and XLA are loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silences Python's libraries, and keeps back what C++ writes to file descriptor 2, as that it made a delegate.

    An exception carries it as a note; if the process crashes, Python's stack goes to the real stderr.
    """
    silence_python()
    with tempfile.TemporaryFile() as said, redirected_stderr(said) as terminal:
        faulthandler.enable(terminal, all_threads=False)
        try:
            yield
        except Exception as error:
            sys.stderr.flush()
            said.seek(0)
            if text := said.read().decode("utf-8", "replace").strip():
                error.add_note(f"Meanwhile the libraries wrote:\n{text}")
            raise
        finally:
            faulthandler.disable()
