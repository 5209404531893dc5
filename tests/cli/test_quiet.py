"""What libraries write while a command runs is kept back until it is needed."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from autoconvert.cli.quiet import quiet_libraries


@pytest.fixture(autouse=True)
def _heard_again() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


def test_what_libraries_write_is_not_seen_where_nothing_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries():
        os.write(2, b"INFO: Created a delegate\n")
    assert capfd.readouterr().err == ""


def test_a_failure_carries_what_libraries_wrote(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no") as failure, quiet_libraries():
        os.write(2, b"out of blocks\n")
        raise ValueError("no")
    assert failure.value.__notes__ == ["Meanwhile the libraries wrote:\nout of blocks"]
    assert capfd.readouterr().err == ""


def test_a_failure_of_which_libraries_say_nothing_has_no_note() -> None:
    with pytest.raises(ValueError, match="no") as failure, quiet_libraries():
        raise ValueError("no")
    assert not hasattr(failure.value, "__notes__")


def test_a_crash_shows_pythons_stack() -> None:
    code = "import os\nfrom autoconvert.cli.quiet import quiet_libraries\nwith quiet_libraries(): os.abort()"
    crashed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert crashed.returncode < 0
    assert "Fatal Python error: Aborted" in crashed.stderr
