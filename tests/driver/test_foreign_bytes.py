"""Cache entries and pattern files of any bytes: none of them is taken for what it is not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoconvert.driver.cache import FOLDER_VARIABLE, load
from autoconvert.driver.library import libraries, load_file
from tests.foreign_bytes import SCALARS, VALUES, bounded, ends_well

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


FIELDS = {
    "name": "block.mine",
    "block": "activation",
    "matches": "right",
    "becomes": "right",
    "example": {"x": (1, 5, 6)},
    "guard": "accept",
    "operations": (),
}
# Functions by name, and what else may stand where one should, or where a size, an example or an operation should.
NAMED = st.sampled_from(["right", "accept", "takes_none", "takes_two", "gives_none", "raises", "loses_shape", "print"])
WRITTEN = st.one_of(
    NAMED,
    SCALARS.map(repr),
    VALUES.map(repr),
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 5, 7, 1 << 40]), max_size=4).map(lambda sizes: repr({"x": tuple(sizes)})),
)
FUNCTIONS = """
import torch
from math import inf, nan
from torch import Tensor
from autoconvert.pattern import Pattern
def right(x: Tensor) -> Tensor: return torch.nn.functional.silu(x)
def accept(**bound): return None
def takes_none() -> Tensor: return torch.zeros(3)
def takes_two(x: Tensor, scale: float) -> Tensor: return x * scale
def gives_none(x: Tensor): return None
def raises(x: Tensor) -> Tensor: raise KeyError("x")
def loses_shape(x: Tensor) -> Tensor: return x.sum()
"""


@bounded
@given(changes=st.dictionaries(st.sampled_from(sorted(FIELDS)), WRITTEN, min_size=1, max_size=2))
def test_a_pattern_of_any_fields_is_in_order_or_bad_input(tmp_path: Path, changes: dict[str, str]) -> None:
    fields = {name: value if name in ("matches", "becomes", "guard") else repr(value) for name, value in FIELDS.items()}
    written = ", ".join(f"{name}={value}" for name, value in {**fields, **changes}.items())
    path = tmp_path / "blocks.py"
    path.write_text(f"{FUNCTIONS}\nPATTERNS = (Pattern({written}),)\n", "utf-8", "surrogatepass")
    ends_well(lambda: libraries([path]), BAD_INPUT)
