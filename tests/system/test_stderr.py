"""What is written past Python to file descriptor 2 goes where it is sent, and no longer than that."""

import io
import os
import sys
from pathlib import Path

import pytest

from autoconvert.system.stderr import redirected_stderr


def test_what_is_written_meanwhile_goes_to_the_file_and_the_rest_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "said").open("wb") as file:
        os.write(2, b"before ")
        with redirected_stderr(file):
            os.write(2, b"meanwhile")
        os.write(2, b"after")
    assert (tmp_path / "said").read_text() == "meanwhile"
    assert capfd.readouterr().err == "before after"


def test_what_python_has_buffered_goes_where_it_was_written_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    buffered = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), write_through=False)
    monkeypatch.setattr(sys, "stderr", buffered)
    with (tmp_path / "said").open("wb") as file:
        print("before", file=sys.stderr)
        with redirected_stderr(file):
            print("meanwhile", file=sys.stderr)
        print("after", file=sys.stderr, flush=True)
    assert (tmp_path / "said").read_text() == "meanwhile\n"
    assert capfd.readouterr().err == "before\nafter\n"


def test_the_real_stderr_can_be_written_to_meanwhile(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "said").open("wb") as file, redirected_stderr(file) as real:
        real.write(b"to the terminal")
        assert capfd.readouterr().err == "to the terminal"


def test_an_exception_ends_it_too_and_no_descriptor_is_left_open(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "said").open("wb") as file:
        free = os.dup(2)
        os.close(free)
        with pytest.raises(RuntimeError), redirected_stderr(file):
            raise RuntimeError
        again = os.dup(2)
        os.close(again)
        os.write(2, b"after")
    assert again == free
    assert capfd.readouterr().err == "after"
