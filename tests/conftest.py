"""What every test has: no compile cache, unless it makes one."""

import os
from collections.abc import Iterator

# Before torch is imported: of small programs, keeping the sizes of each operation costs more than finding them again.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")

import pytest

from autoconvert.driver.cache import FOLDER_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_kept() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER_VARIABLE, os.devnull)
        yield
