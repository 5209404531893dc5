import subprocess
import sys
from pathlib import Path

import pytest

from autoconvert.system.output import output_folder

_WRITES_AND_WAITS = """
import sys
from pathlib import Path
from autoconvert.system.output import output_folder

with output_folder(Path(sys.argv[1])) as (temporary, _):
    (temporary / "half").write_text("written")
    print(temporary, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _WRITES_AND_WAITS, str(tmp_path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _folder_of(writer: "subprocess.Popen[str]") -> Path:
    assert writer.stdout is not None
    return Path(writer.stdout.readline().strip())


def test_what_a_killed_conversion_left_half_written_goes_with_the_next(
    writer: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    left = _folder_of(writer)
    writer.kill()
    writer.communicate()
    assert (left / "half").exists()
    with output_folder(tmp_path) as (temporary, _):
        assert [temporary] == list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_what_a_conversion_under_way_has_written_is_left_alone(writer: "subprocess.Popen[str]", tmp_path: Path) -> None:
    theirs = _folder_of(writer)
    with output_folder(tmp_path):
        pass
    assert (theirs / "half").exists()
    writer.communicate("")
    assert not list(tmp_path.iterdir())
