"""Cache entries and pattern files of any bytes: none of them is taken for what it is not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoconvert.driver.cache import FOLDER_VARIABLE, load
from autoconvert.driver.library import load_file
from tests.foreign_bytes import SCALARS, bounded, ends_well

BAD_INPUT = 2


@bounded
@given(content=st.binary(max_size=80))
def test_a_cache_entry_of_any_bytes_is_none(tmp_path: Path, content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path))
        (tmp_path / "key.compiled").write_bytes(content)
        assert load("key") is None
        assert not (tmp_path / "key.compiled").exists()


WORDS = st.sampled_from(
    ["PATTERNS", "=", "(", ")", "Pattern", "\n", "def f(x):", "    ", "return", "1", ",", "[", "é", "\0"]
)


@bounded
@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.lists(WORDS, max_size=12).map(lambda words: " ".join(words).encode()),
        SCALARS.map(lambda value: f"PATTERNS = {value!r}".encode()),
        SCALARS.map(lambda value: f"PATTERNS = ({value!r},)".encode()),
        st.sampled_from([b"(" * 5000, b"-" * 100_000 + b"1", b"raise SystemExit", b"1/0", b"def f(): f()\nf()"]),
    )
)
def test_a_pattern_file_of_any_bytes_is_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "blocks.py"
    path.write_bytes(content)
    ends_well(lambda: load_file(path), BAD_INPUT)
