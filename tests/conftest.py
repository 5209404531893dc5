"""What every test has: no compile cache, unless it makes one."""

import os
from collections.abc import Iterator

import pytest

from autoconvert.driver.cache import FOLDER_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_kept() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER_VARIABLE, os.devnull)
        yield
