"""Bytes as nobody should have written them: what is read from outside must end well or in an error of ours."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from autoconvert.errors import AutoconvertError

# No count among them is so large that an honest reader would take long for it.
NUMBERS = st.sampled_from([-(1 << 63), -1, 0, 1, 2, 3, 7, 1 << 31, 1 << 64, 10**30])
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.floats(), st.text(max_size=8), st.sampled_from(["", "\0", "..", "/", "é"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
DEEP = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500])

# Time per example says nothing on a busy machine; a run is bounded by how many there are.
bounded = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def documents(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Bytes in place of the JSON of `whole`: with values changed, cut short, with a bit flipped, or anything."""
    text = json.dumps(whole).encode()
    changed = st.dictionaries(st.sampled_from(sorted(whole)), VALUES, min_size=1, max_size=3)
    return st.one_of(
        changed.map(lambda changes: json.dumps({**whole, **changes}).encode()),
        st.integers(0, len(text)).map(lambda end: text[:end]),
        st.integers(0, 8 * len(text) - 1).map(lambda bit: flipped(text, bit)),
        VALUES.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=40),
        DEEP,
    )


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def ends_well(read: Callable[[], object], *codes: int) -> None:
    """Calls `read`, which may raise an error of ours with one of these exit codes, and nothing else."""
    try:
        read()
    except AutoconvertError as error:
        assert error.exit_code in codes, error
        assert error.message and error.hint
