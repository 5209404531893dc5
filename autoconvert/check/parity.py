"""Parity: what it means that logits are the same, and the reference they are compared with."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autoconvert.errors import CheckFailed
from autoconvert.source.source import Source, parameter_count
from autoconvert.source.streamed import streamed
from autoconvert.tracing.past import token_by_token
from autoconvert.tracing.trace import TokensToLogits

# In units of the standard deviation of the reference's logits at a position.
TOLERANCE = 1e-4
# Two computations in float32, each as far from float64 as the source is: twice that, and as much again for chance.
OF_ROUNDING = 4
SEEDS = (1, 2, 3, 4)


class Reference:
    """The unmodified module as a function from tokens to logits."""

    def __init__(self, module: nn.Module) -> None:
        self._decoder = TokensToLogits(module)
        self._placed = TokensToLogits(module, always_placed=True)
        self.parameters = parameter_count(module)

    def __call__(self, tokens: Sequence[int], at: Sequence[int] | None = None) -> Tensor:
        """Logits float32 [positions, vocabulary] at the positions `at`, or at all of them, from one run."""
        ids, positions = torch.tensor([list(tokens)]), torch.arange(len(tokens))[None]
        return self._decoder(ids, positions, None if at is None else torch.tensor(list(at)))[0].float()

    def placed(self, tokens: Sequence[int], start: int, at: Sequence[int]) -> Tensor:
        """The same of a text that begins at position `start`, for a module that can be told so."""
        if start == 0:
            return self(tokens, at)
        ids, positions = torch.tensor([list(tokens)]), torch.arange(start, start + len(tokens))[None]
        return self._placed(ids, positions, torch.tensor(list(at)))[0].float()

    def token_by_token(self, tokens: Sequence[int]) -> Tensor:
        """The same at all positions, from one run for each token: what the module says that it would say.

        Raises Refused where the module cannot run so.
        """
        return token_by_token(self._decoder.decoder, tokens)


@contextmanager
def reference_of(source: Source, dtype: torch.dtype = torch.float32) -> Iterator[Reference]:
    """The source's module with its weights streamed in as `dtype`, for as long as the context lasts."""
    with streamed(source, dtype) as module:
        yield Reference(module)


def random_tokens(count: int, vocabulary: int) -> list[int]:
    """Tokens of no meaning, the same each time: every position then tells apart which token it sees."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, vocabulary, (count,), generator=generator).tolist()


def distance(logits: Tensor, reference: Tensor) -> Tensor:
    """The largest difference at each position of [positions, vocabulary], in standard deviations of the reference."""
    return (logits - reference).abs().amax(-1) / reference.std(-1)


def root_mean_square(logits: Tensor, reference: Tensor) -> Tensor:
    """The difference at each position of [positions, vocabulary], root mean square, in the same unit."""
    return (logits - reference).square().mean(-1).sqrt() / reference.std(-1)


def unexplained(
    logits: Tensor, reference: Tensor, allowed: float, rounded: Callable[[int], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """What rounding changes at each position of [positions, vocabulary], in σ, and how much of it is not explained.

    A deep model adds up more rounding than is `allowed`: where the change is larger, what counts is the distance from
    the reference `rounded` in the same way, if that is known. Where that is larger too, the last bits of a number
    decide, as of which experts are chosen: what the rounded reference itself changes by with other ones, for a few
    seeds, is explained.
    """
    change = root_mean_square(logits, reference)
    if rounded is None or bool((change <= allowed).all()):
        return change, change
    near = rounded(0)
    apart = root_mean_square(logits, near)
    if bool((apart <= allowed).all()):
        return change, apart
    own = max(float(root_mean_square(rounded(seed), near).max()) for seed in SEEDS)
    return change, (apart - OF_ROUNDING * own).clamp(min=0) if math.isfinite(own) else apart


def compare_logits(
    logits: Tensor,
    reference: Tensor,
    what: str,
    tolerance: float = TOLERANCE,
    positions: Sequence[int] | None = None,
) -> float:
    """The worst distance over all `positions` (0, 1, …); raises CheckFailed naming the first beyond `tolerance`."""
    distances = distance(logits, reference)
    worst = float(distances.max())
    if not worst <= tolerance:
        first = int((~(distances <= tolerance)).nonzero()[0])
        position = first if positions is None else positions[first]
        raise CheckFailed(
            f"The check failed: {what} gives other logits than the model, first at position {position} "
            f"({float(distances[first]):.2g} standard deviations, {tolerance:g} allowed).",
            hint="This is a bug in a pattern or a pass, never in the model. Please report it with the model's config.",
        )
    return worst
