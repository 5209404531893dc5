import os
import time
from pathlib import Path

import psutil
import pytest

from autoconvert.source.read_ahead import read_ahead

pytestmark = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what is in its page cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(bytes(8 << 20))
    with (tmp_path / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _is_cached(tmp_path / "model.safetensors"):
        pytest.skip("this file system forgets nothing, being in memory itself")
    return tmp_path


def test_a_checkpoint_is_there_before_it_is_read(folder: Path) -> None:
    thread = read_ahead(folder)
    assert thread is not None
    thread.join()
    give_up = time.monotonic() + 30
    while not _is_cached(folder / "model.safetensors"):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_what_would_fill_the_memory_is_not_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=10 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert read_ahead(folder) is None


def _is_cached(path: Path) -> bool:
    page = bytearray(4096)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for begin in range(0, path.stat().st_size, len(page)):
            os.preadv(descriptor, [page], begin, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
