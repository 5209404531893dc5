"""Parity: what it means that logits are the same, and the reference they are compared with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from autoconvert.errors import CheckFailed
from autoconvert.source.source import Source
from autoconvert.source.streamed import streamed
from autoconvert.trace import TokensToLogits

# In units of the standard deviation of the reference's logits at a position.
TOLERANCE = 1e-4

Reference = Callable[[Sequence[int]], Tensor]


@contextmanager
def reference_of(source: Source) -> Iterator[Reference]:
    """The unmodified module as a function from n tokens to logits float32 [n, vocabulary]."""
    with streamed(source) as module:
        decoder = TokensToLogits(module)

        def logits(tokens: Sequence[int]) -> Tensor:
            ids = torch.tensor([list(tokens)])
            return decoder(ids, torch.arange(len(tokens))[None])[0].float()

        yield logits


def random_tokens(count: int, vocabulary: int) -> list[int]:
    """Tokens of no meaning, the same each time: every position then tells apart which token it sees."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, vocabulary, (count,), generator=generator).tolist()


def distance(logits: Tensor, reference: Tensor) -> Tensor:
    """The largest difference at each position of [positions, vocabulary], in standard deviations of the reference."""
    return (logits - reference).abs().amax(-1) / reference.std(-1)


def compare_logits(logits: Tensor, reference: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    """The worst distance over all positions; raises CheckFailed naming the first position beyond `tolerance`."""
    distances = distance(logits, reference)
    worst = float(distances.max())
    if not worst <= tolerance:
        first = int((~(distances <= tolerance)).nonzero()[0])
        raise CheckFailed(
            f"The check failed: {what} gives other logits than the model, first at position {first} "
            f"({float(distances[first]):.2g} standard deviations, {tolerance:g} allowed).",
            hint="This is a bug in a pattern or a pass, never in the model. Please report it with the model's config.",
        )
    return worst
