"""Whether a file says what its model says: many ways to split a text, and every position compared in each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

TEXT_LENGTH = 40
PREFILL_LENGTH = 16
# In standard deviations of the model's logits at a position.
TOLERANCE = 1e-3

# Each way is turns of (tokens prefilled, tokens decoded).
Way = tuple[tuple[int, int], ...]
_PREFIXES = (1, 2, 7, 15, 16, 17, 24, 31, 32, 33, 39)
WAYS: tuple[Way, ...] = (
    ((0, TEXT_LENGTH),),
    *(((prefix, TEXT_LENGTH - prefix),) for prefix in _PREFIXES),
    ((5, 2), (18, 1), (3, 11)),
    ((16, 1), (1, 1), (16, 1), (2, 2)),
)


class Runner(Protocol):
    """What runs a file."""

    def reset(self) -> None: ...
    def prefill(self, tokens: Sequence[int]) -> None: ...
    def decode(self, token: int) -> Tensor: ...


@dataclass(frozen=True)
class Parity:
    """The largest difference in standard deviations of the model's logits, and where it was."""

    worst: float
    position: int
    way: Way

    @property
    def is_right(self) -> bool:
        return self.worst < TOLERANCE

    def __str__(self) -> str:
        turns = ", then ".join(f"{prefilled} prefilled and {decoded} decoded" for prefilled, decoded in self.way)
        return f"{self.worst:.2g} σ at position {self.position} with {turns}"


def compare(runner: Runner, tokens: Sequence[int], reference: Tensor) -> Parity:
    """Runs `tokens` in every way, against the model's logits [sequence, vocabulary] from one run.

    A difference that is not a number is the worst of all.
    """
    scale = reference.std(-1)
    worst = Parity(0.0, 0, WAYS[0])
    for way in WAYS:
        for position, logits in _decoded(runner, tokens, way):
            distance = float((logits - reference[position]).abs().max() / scale[position])
            distance = float("inf") if distance != distance else distance
            if distance > worst.worst:
                worst = Parity(distance, position, way)
    return worst


def _decoded(runner: Runner, tokens: Sequence[int], way: Way) -> Iterator[tuple[int, Tensor]]:
    runner.reset()
    position = 0
    for prefilled, decoded in way:
        if prefilled:
            runner.prefill(tokens[position : position + prefilled])
        position += prefilled
        for _ in range(decoded):
            yield position, runner.decode(tokens[position])
            position += 1


def says_something(reference: Tensor) -> bool:
    """Whether logits [sequence, vocabulary] are numbers that differ from position to position."""
    return bool(torch.isfinite(reference).all()) and bool((reference.std(0) > 0).any())
