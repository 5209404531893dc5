"""Machines that fail in the middle, and files that change under way: the right code, nothing damaged, nothing left."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoconvert.driver.cache import FOLDER_VARIABLE
from autoconvert.driver.convert import convert
from autoconvert.errors import AutoconvertError
from autoconvert.system.streamed_file import StreamedFile
from tests.source.tiny import build, llama

BEFORE = b"from before"
# The module, which the package's function of the same name hides.
DRIVER = [sys.modules[f"autoconvert.driver.{name}"] for name in ("convert", "link_and_check", "convert_source")]


def converted(model: Path, output: Path, verify: str = "off") -> None:
    convert(model, output, context=16, prefill=(4,), formats=("tflite",), quantize="none", verify=verify)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once: what is tried here comes after that."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "cache"))
        build(llama()).save_pretrained(folder / "model")
        converted(folder / "model", folder / "out", verify="quick")
    return folder / "cache"


@pytest.fixture
def model(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(cache))
    build(llama()).save_pretrained(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.tflite").write_bytes(BEFORE)
    return tmp_path / "model"


def refused(model: Path, code: int) -> AutoconvertError:
    """The error that a conversion ends in, which has left the output folder as it was."""
    output = model.parent / "out"
    with pytest.raises(AutoconvertError) as caught:
        converted(model, output)
    assert caught.value.exit_code == code and caught.value.hint
    assert {path.name: path.read_bytes() for path in output.iterdir()} == {"model.tflite": BEFORE}
    return caught.value


def failing_after(count: int, works: Callable[..., Any], failure: OSError) -> Callable[..., Any]:
    calls = iter(range(count))

    def function(*args: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise failure
        return works(*args, **options)

    return function


def before(name: str, happens: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets something happen just before the driver calls `name`."""
    module = next(module for module in DRIVER if hasattr(module, name))
    works = getattr(module, name)

    def function(*args: Any, **options: Any) -> Any:
        happens()
        return works(*args, **options)

    monkeypatch.setattr(module, name, function)


@pytest.mark.parametrize("count", [0, 3])
def test_a_disk_that_cannot_be_read_is_the_machine_s_failure(
    count: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr("os.preadv", failing_after(count, os.preadv, failure))
    assert "model.safetensors: cannot be read" in refused(model, 5).message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("count", [0, 2])
def test_a_disk_that_gets_full_while_weights_are_written(
    count: int, number: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = StreamedFile.__enter__

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file
            self.write = failing_after(count, file.write, OSError(number, os.strerror(number)))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def opened(file: StreamedFile) -> StreamedFile:
        entered = enter(file)
        entered._file = Full(entered._file)  # type: ignore[assignment]
        return entered

    monkeypatch.setattr(StreamedFile, "__enter__", opened)
    assert os.strerror(number) in refused(model, 5).message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_a_disk_that_gets_full_at_the_report(number: int, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DRIVER[1], "write_report", failing_after(0, print, OSError(number, os.strerror(number))))
    assert "Cannot write to" in refused(model, 5).message


def another(model: Path) -> None:
    build(llama()).save_pretrained(model)


def changed_in_place(model: Path) -> None:
    path = model / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")


def longer(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("change", [another, changed_in_place, longer])
@pytest.mark.parametrize("stage", ["key_of", "link", "write_report"])
def test_a_checkpoint_that_changes_under_way_is_noticed(
    stage: str, change: Callable[[Path], None], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before(stage, lambda: change(model), monkeypatch)
    assert "model.safetensors: it changed while it was converted" in refused(model, 2).message


def test_a_checkpoint_that_goes_away_under_way_is_the_machine_s_failure(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before("write_report", lambda: (model / "model.safetensors").unlink(), monkeypatch)
    assert "model.safetensors: cannot be read" in refused(model, 5).message


def test_without_a_fault_the_files_are_replaced(model: Path) -> None:
    converted(model, model.parent / "out")
    assert {path.name for path in (model.parent / "out").iterdir()} == {"model.tflite", "report.json"}
    assert (model.parent / "out" / "model.tflite").read_bytes() != BEFORE
