"""Which texts a file reads while it is checked: in which pieces, from where on, and where logits are compared."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from autoconvert.check.parity import random_tokens

# The slots of a piece that the signature takes which gives logits.
DECODE = 0
# Tokens that a text is lengthened to at most, so that it passes the windows of attention.
LONGEST = 1024
# Positions that are decoded one after the other where everything is to be checked.
_EACH = 256
# Tokens of a part-filled chunk at most: of one with more, more time goes by and nothing else is said.
_PART = 16
# Chunks of a file that takes any: a single token too, which a file of fixed lengths decodes.
_ANY = (1, 7, _PART)
_LONG = 128


@dataclass(frozen=True)
class Reading:
    """A text that begins at `start` and is read in `pieces` of (tokens, slots).

    Where DECODE stands for the slots, one token is decoded, and the logits after it are compared.
    """

    start: int
    pieces: tuple[tuple[int, int], ...]
    vocabulary: int

    @cached_property
    def tokens(self) -> list[int]:
        return random_tokens(self.length, self.vocabulary)

    @property
    def length(self) -> int:
        return sum(real for real, _ in self.pieces)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The pieces as (tokens, slots) where a decoded token has a slot too."""
        return [(real, slots or 1) for real, slots in self.pieces]

    @property
    def compared(self) -> list[int]:
        """Which tokens of the text are decoded."""
        begins = accumulate((real for real, _ in self.pieces), initial=0)
        return [begin for begin, (_, slots) in zip(begins, self.pieces, strict=False) if slots == DECODE]


def from_the_start(
    lengths: Collection[int], capacity: int, vocabulary: int, windows: Collection[int] = (), *, to_the_end: bool = False
) -> Reading:
    """A text from position 0 on: nothing before, a part-filled chunk, full ones, one after another, each then decoded.

    It goes on past the `windows` that are no longer than LONGEST, or `to_the_end` of the cache. Without `lengths`
    chunks are of any, and none is part-filled.
    """
    shortest, *others = sorted(lengths or _ANY)
    pieces = _Pieces(capacity)
    pieces.add(1, DECODE)
    if shortest > 1:
        pieces.add(min(shortest // 2, _PART), shortest)
    for length in (shortest, *others):
        pieces.add(1, DECODE)
        pieces.add(length, length)
    beyond = max((window for window in windows if window <= LONGEST), default=0)
    wanted = capacity - 1 if to_the_end else min(beyond + 1, capacity - 1)
    while pieces.position < wanted:
        room = capacity - 1 - pieces.position
        fitting = [length for length in lengths or (min(_LONG, room),) if length <= room]
        pieces.add(max(fitting, default=1), max(fitting, default=DECODE))
    pieces.add(1, DECODE)
    return Reading(0, tuple(pieces.taken), vocabulary)


def shortest_of(lengths: Collection[int]) -> int:
    """The slots of the shortest chunk that is read at the end of a cache."""
    return min(lengths, default=_PART)


def at_the_end(lengths: Collection[int], capacity: int, vocabulary: int) -> list[Reading]:
    """Short texts up to the last slot of the cache, everything before them closed.

    A chunk of many slots is part-filled, and the last tokens are a text of their own. The cache must have two slots
    more than `shortest_of(lengths)`.
    """
    shortest = shortest_of(lengths)
    if shortest <= _PART:
        pieces = ((shortest, shortest), (1, DECODE), (1, DECODE))
        return [Reading(capacity - shortest - 2, pieces, vocabulary)]
    part = Reading(capacity - shortest, ((_PART, shortest), (1, DECODE)), vocabulary)
    return [part, Reading(capacity - 3, ((1, DECODE),) * 3, vocabulary)]


def from_all_starts(
    lengths: Collection[int], capacity: int, vocabulary: int, windows: Collection[int] = (), *, to_the_end: bool = False
) -> list[Reading]:
    """`from_the_start`, and for each chunk that does not fit behind its other pieces a text that begins with it."""
    text = from_the_start(lengths, capacity, vocabulary, windows, to_the_end=to_the_end)
    taken = {slots for _, slots in text.pieces}
    return [text, *(of_one_chunk(length, capacity, vocabulary) for length in lengths if length not in taken)]


def of_one_chunk(length: int, capacity: int, vocabulary: int) -> Reading:
    """A chunk of `length` slots at position 0, as full as leaves a slot of the cache for the token decoded after it."""
    return Reading(0, ((min(length, capacity - 1), length), (1, DECODE)), vocabulary)


def token_by_token(capacity: int, vocabulary: int) -> Reading:
    """A text that is decoded from the first token on."""
    return Reading(0, ((1, DECODE),) * min(capacity, _EACH), vocabulary)


class _Pieces:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.taken: list[tuple[int, int]] = []
        self.position = 0

    def add(self, real: int, slots: int) -> None:
        """Takes the piece if all its slots fit, and of a chunk if a token can be decoded after it."""
        if self.position + slots < self._capacity:
            self.taken.append((real, slots))
            self.position += real
