import hashlib
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from autoconvert.system.hashing import PIECE, digest_of, file_pieces, hashing


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE + 5])
def test_a_file_in_pieces_has_the_digest_of_the_whole(size: int, tmp_path: Path) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert digest_of(file_pieces(tmp_path / "file")) == hashlib.sha256(content[:size]).hexdigest()
    part = content[:size][1:-1]
    assert digest_of(file_pieces(tmp_path / "file", 1, max(size - 1, 1))) == hashlib.sha256(part).hexdigest()


def test_what_ends_before_it_should_is_hashed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digest_of(file_pieces(tmp_path / "file", 1, 100)) == hashlib.sha256(b"bc").hexdigest()


def test_digests_come_by_name_and_errors_where_they_are_asked_for() -> None:
    def broken() -> Iterator[memoryview]:
        yield memoryview(b"a")
        raise OSError(5, "Input/output error")

    with hashing() as hasher:
        good, bad = hasher.start({"a": iter([memoryview(b"x"), memoryview(b"y")])}), hasher.start({"b": broken()})
        assert good.result() == {"a": hashlib.sha256(b"xy").hexdigest()}
        with pytest.raises(OSError, match="Input/output"):
            bad.result()


def test_leaving_ends_it_at_the_next_piece() -> None:
    begun = Event()

    def endless() -> Iterator[memoryview]:
        while True:
            begun.set()
            yield memoryview(b"x")

    with hashing() as hasher:
        hasher.start({"a": endless()})
        waiting = hasher.start({"b": iter([])})
        assert begun.wait(30)
    assert waiting.cancelled()
