"""What the source says of the texts that a file reads: computed once, and before it is needed where time is."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from autoconvert.check.parity import OF_ROUNDING, SEEDS, distance, reference_of
from autoconvert.check.readings import Reading
from autoconvert.check.rounded_source import rounded_reference
from autoconvert.quantization.recipe import Recipe
from autoconvert.source.source import Source
from autoconvert.tracing.untraceable import is_ours


class Expected:
    """Logits of the unmodified module of `source`, kept by the reading."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._logits: dict[Reading, Tensor | None] = {}

    def prepare(self, readings: Iterable[Reading]) -> None:
        """Computes what is not known yet."""
        missing = [reading for reading in readings if reading not in self._logits]
        if not missing:
            return
        with reference_of(self._source) as reference:
            for reading in missing:
                try:
                    logits = reference.placed(reading.tokens, reading.start, reading.compared)
                except (IndexError, RuntimeError, ValueError) as error:
                    if reading.start == 0 or is_ours(error):
                        raise
                    logits = None
                self._logits[reading] = logits

    def logits(self, reading: Reading) -> Tensor | None:
        """Logits [compared, vocabulary] of `reading`; None where the source cannot read a text that begins so late."""
        self.prepare([reading])
        return self._logits[reading]

    def of_text(self, tokens: Sequence[int]) -> Tensor:
        """Logits [tokens, vocabulary] after each token of a text; they are not kept."""
        with reference_of(self._source) as reference:
            return reference(tokens)

    def rounded(self, reading: Reading, recipe: Recipe, jitter: int = 0) -> Tensor:
        """Logits of `reading`, which the source can read, when it is rounded as a file of `recipe` is.

        With `jitter`, a seed, what is multiplied has other last bits.
        """
        with rounded_reference(self._source, recipe, jitter) as reference:
            return reference.placed(reading.tokens, reading.start, reading.compared)

    def last_bits(self, ids: Sequence[int], target: Sequence[int], recipe: Recipe) -> float:
        """By how much other last bits in what is multiplied may change the log-probabilities of `target` after `ids`.

        Of a token's natural log-probability; as much more than a few seeds change it as chance may.
        """
        tokens, compared = [*ids, *target[:-1]], range(len(ids) - 1, len(ids) + len(target) - 1)
        scores = []
        for seed in (0, *SEEDS):
            with rounded_reference(self._source, recipe, seed) as reference:
                logits = reference.placed(tokens, 0, compared)
            scores.append(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]))
        return OF_ROUNDING * max(float((score - scores[0]).abs().max()) for score in scores[1:])

    def rounding(self, reading: Reading) -> Tensor | None:
        """How far float32 takes the source itself from float64, at each compared position of `reading`, in σ.

        None where it cannot be run in float64.
        """
        expected = self.logits(reading)
        if expected is None:
            return None
        try:
            with reference_of(self._source, torch.float64) as reference:
                finer = reference.placed(reading.tokens, reading.start, reading.compared)
        except (RuntimeError, TypeError, ValueError) as error:
            if is_ours(error):
                raise
            return None
        return distance(expected, finer)
