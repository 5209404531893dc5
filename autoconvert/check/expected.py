"""What the source says of the texts that a file reads: computed once, and before it is needed where time is."""

from collections.abc import Iterable

import torch
from torch import Tensor

from autoconvert.check.double_precision import double_precision
from autoconvert.check.parity import Reference, distance, reference_of
from autoconvert.check.readings import Reading
from autoconvert.check.rounded_source import rounded_reference
from autoconvert.errors import Refused
from autoconvert.quantization.recipe import Recipe
from autoconvert.source.source import Source
from autoconvert.tracing.untraceable import is_ours

# Two ways of a model that float64 finds no further apart, in σ, are one model: they differ by rounding alone.
_SAME = 1e-6


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

    def rounded(self, reading: Reading, recipe: Recipe) -> Tensor:
        """Logits of `reading`, which the source can read, when it is rounded as a file of `recipe` is."""
        with rounded_reference(self._source, recipe) as reference:
            return reference.placed(reading.tokens, reading.start, reading.compared)

    def rounding(self, reading: Reading) -> Tensor | None:
        """How far float32 takes the source itself from float64, at each compared position of `reading`, in σ.

        Of its two ways, the whole text at once and token by token, the further one counts, if both are the same model.
        None where it cannot be run in float64.
        """
        expected = self.logits(reading)
        if expected is None:
            return None
        try:
            with reference_of(self._source, torch.float64) as reference, double_precision():
                finer = reference.placed(reading.tokens, reading.start, reading.compared)
                finer_steps = _steps(reference, reading)
        except (RuntimeError, TypeError, ValueError) as error:
            if is_ours(error):
                raise
            return None
        own = distance(expected, finer)
        if finer_steps is None or not bool((distance(finer_steps, finer) <= _SAME).all()):
            return own
        with reference_of(self._source) as reference:
            steps = _steps(reference, reading)
        return own if steps is None else torch.maximum(own, distance(steps, finer))


def _steps(reference: Reference, reading: Reading) -> Tensor | None:
    """What the source says of `reading` token by token; None where it cannot."""
    if reading.start > 0:
        return None
    try:
        return reference.token_by_token(reading.tokens)[reading.compared]
    except Refused:
        return None
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if is_ours(error):
            raise
        return None
