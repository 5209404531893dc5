"""SHA-256 digests of what is large, on a thread beside other work: reading and hashing leave Python to the others."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Event

# Large enough that the threads seldom wait for each other, small enough for the processor's cache.
PIECE = 1 << 22

Digests = dict[str, str]


def digest_of(pieces: Iterable[memoryview]) -> str:
    """The digest, in hex, of the pieces one after the other."""
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def file_pieces(path: Path, begin: int = 0, end: int | None = None) -> Iterator[memoryview]:
    """Bytes `begin:end` of a file, each piece valid until the next; fewer where the file ends before."""
    with path.open("rb", buffering=0) as file:
        left = (path.stat().st_size if end is None else end) - begin
        view = memoryview(bytearray(min(PIECE, max(left, 0))))
        file.seek(begin)
        while left > 0 and (count := file.readinto(view[: min(left, PIECE)])):
            yield view[:count]
            left -= count


class Hashing:
    """Digests on their way: what is started is hashed in its order; `stop` ends it at the next piece."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._stopped = Event()

    def start(self, contents: Mapping[str, Iterable[memoryview]]) -> "Future[Digests]":
        """The digests of `contents` by name; asking for them raises what reading raised."""
        return self._pool.submit(self._digests, contents)

    def stop(self) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def _digests(self, contents: Mapping[str, Iterable[memoryview]]) -> Digests:
        return {name: digest_of(self._until_stopped(pieces)) for name, pieces in contents.items()}

    def _until_stopped(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            if self._stopped.is_set():
                return
            yield piece


@contextmanager
def hashing() -> Iterator[Hashing]:
    """Hashing that ends, finished or not, with the context."""
    started = Hashing()
    try:
        yield started
    finally:
        started.stop()
