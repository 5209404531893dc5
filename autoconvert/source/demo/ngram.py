"""Interpolated modified Kneser-Ney n-grams (Chen & Goodman, 1999): what the demo model must beat."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Context = tuple[int, ...]
Counts = dict[Context, Counter[int]]


@dataclass(frozen=True)
class Backoff:
    """One order of the model: for each context of n-1 tokens, what followed it how often.

    `counts` are plain counts in the highest order and after the start of a document; elsewhere they say
    how many different tokens came before. `discounts` are what a count of 1, 2 and 3 or more gives away.
    """

    counts: Counts
    discounts: tuple[float, float, float]
    totals: dict[Context, int]
    freed: dict[Context, float]


@dataclass(frozen=True)
class NGram:
    """Backoffs from the unigram up, over tokens 0 … `vocabulary`-1."""

    vocabulary: int
    backoffs: tuple[Backoff, ...]

    def probability(self, history: Sequence[int], token: int) -> float:
        """p(token | history); tokens of `history` beyond the order are not looked at."""
        result = 1.0 / self.vocabulary
        for length, backoff in enumerate(self.backoffs[: len(history) + 1]):
            context = tuple(history[len(history) - length :])
            if (total := backoff.totals.get(context)) is None:
                break
            count = backoff.counts[context].get(token, 0)
            kept = count - backoff.discounts[min(count, 3) - 1] if count else 0.0
            result = (kept + backoff.freed[context] * result) / total
        return result

    def negative_log_likelihood(self, document: Sequence[int]) -> float:
        """Sum of -ln p over all tokens of `document` but the first, in nats."""
        order = len(self.backoffs)
        return -sum(
            math.log(self.probability(document[max(0, i - order + 1) : i], document[i]))
            for i in range(1, len(document))
        )


def train(documents: Sequence[Sequence[int]], vocabulary: int, order: int = 5) -> NGram:
    """Counts n-grams up to `order` in documents; the token that starts a document is never predicted."""
    counts = _count(documents, order)
    for shorter, longer in zip(reversed(counts[:-1]), reversed(counts[1:]), strict=True):
        _add_continuations(shorter, longer)
    return NGram(vocabulary, tuple(_backoff(c) for c in counts))


def _count(documents: Sequence[Sequence[int]], order: int) -> list[Counts]:
    """Plain counts: of all n-grams in the highest order, of those that start a document in the others."""
    counts: list[Counts] = [defaultdict(Counter) for _ in range(order)]
    for document in documents:
        tokens = tuple(document)
        for i in range(1, len(tokens)):
            length = min(i, order - 1)
            counts[length][tokens[i - length : i]][tokens[i]] += 1
    return counts


def _add_continuations(shorter: Counts, longer: Counts) -> None:
    """Adds 1 for every different token seen before an n-gram."""
    for context, followers in longer.items():
        shorter[context[1:]].update(followers.keys())


def _backoff(counts: Counts) -> Backoff:
    discounts = _discounts(counts)
    freed = {
        context: sum(discounts[min(count, 3) - 1] for count in followers.values())
        for context, followers in counts.items()
    }
    return Backoff(dict(counts), discounts, {c: f.total() for c, f in counts.items()}, freed)


def _discounts(counts: Counts) -> tuple[float, float, float]:
    """Chen & Goodman's estimates from the counts of counts; ½, 1 and 1½ where these give nothing to go by."""
    n = Counter(min(count, 5) for followers in counts.values() for count in followers.values())
    if not all(n[k] for k in (1, 2, 3, 4)):
        return 0.5, 1.0, 1.5
    y = n[1] / (n[1] + 2 * n[2])
    one, two, three = (k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return (one, two, three) if min(one, two, three) > 0 else (0.5, 1.0, 1.5)
