"""A `.tflite` that anybody made, run beside the model: a verdict for each way in which its signatures are used.

Nothing but the file says how it was made. So where nothing in it is rounded its logits must be the model's, and
otherwise no further from them than its kind of rounding explains, or from those of the model rounded in the same way.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from functools import partial

import torch
from torch import Tensor

from autoconvert.check.constant_types import Described
from autoconvert.check.deployment import read
from autoconvert.check.parity import TOLERANCE, Reference, distance, unexplained
from autoconvert.check.readings import DECODE as ONE
from autoconvert.check.readings import LONGEST, Reading, at_the_end, from_the_start, shortest_of, token_by_token
from autoconvert.check.verdict import (
    DECODE,
    END,
    PREFILL,
    QUANTISATION,
    WINDOW,
    Verdict,
    failed,
    not_checked,
    passed,
)
from autoconvert.errors import first_line
from autoconvert.quantization.recipe import Recipe
from autoconvert.runtime.failed import RuntimeFailed
from autoconvert.runtime.runner import Runner
from autoconvert.tracing.untraceable import is_ours

# Tokens that are decoded from the first one on.
_DECODED = 12
# Tokens that are decoded at the end of a text that is to pass the windows: where a window ends by one, one may do.
_BEYOND = 2
# Multiply-adds, a parameter and a position each, up to which a text is read for one layer.
_AFFORDABLE = 2_000_000_000_000


@dataclass(frozen=True)
class _Rounding:
    """How far logits of a rounded file are from the model's, and how much of that rounding does not explain, in σ."""

    change: float
    unexplained: float


@dataclass
class ForeignCheck:
    """A file that `runner` runs, beside `reference`; `limit` is how many positions a text may have.

    `rounded` gives the logits [compared, vocabulary] of a text from the model rounded as a file of a recipe is, and a
    seed for the last bits of its numbers.
    """

    runner: Runner
    described: Described
    reference: Reference
    rounded: Callable[[Reading, Recipe, int], Tensor]
    limit: int
    thorough: bool
    _rounding: list[_Rounding] = field(default_factory=list)

    def verdicts(self) -> Iterator[Verdict]:
        """Prefill, decode, window, end of context, quantisation: one after the other, as they are found."""
        lengths, limit, vocabulary = self.runner.prefill_lengths, self.limit, self.runner.vocabulary
        chunks = from_the_start(lengths, limit, vocabulary)
        if all(slots == ONE for _, slots in chunks.pieces):
            yield not_checked(PREFILL, f"no prefill fits {limit} positions with a token after it")
        else:
            yield self._judge(PREFILL, chunks)
        count = limit if self.thorough else _DECODED
        yield self._judge(DECODE, _first(token_by_token(limit, vocabulary), count))
        yield self._window()
        yield self._end()
        yield self._quantisation()

    def _window(self) -> Verdict:
        wanted = self.limit if self.thorough else min(self.limit, LONGEST + _BEYOND)
        length = min(wanted, _AFFORDABLE // max(self.reference.parameters, 1))
        if length < wanted:
            why = f"a text of {wanted} tokens takes too long for a model of this size"
            return not_checked(WINDOW, f"{why}: --verify full reads one")
        found = self._judge(WINDOW, self._long(length))
        if found.outcome != "passed" or length >= self.limit:
            return found
        return passed(WINDOW, f"{found.detail}; longer windows were not passed")

    def _end(self) -> Verdict:
        lengths, limit, vocabulary = self.runner.prefill_lengths, self.limit, self.runner.vocabulary
        if shortest_of(lengths) + 2 <= limit:
            late = [self._judge(END, reading) for reading in at_the_end(lengths, limit, vocabulary)]
            # A model that counts positions in another way than it is told says nothing of a text that begins late.
            if all(verdict.outcome == "passed" for verdict in late):
                return late[-1]
        if self.thorough or self.reference.parameters * limit <= _AFFORDABLE:
            return self._judge(END, self._long(limit))
        return not_checked(
            END, f"a text of {limit} tokens takes too long for a model of this size: --verify full reads one"
        )

    def _long(self, length: int) -> Reading:
        """A text of `length` tokens, the last of them decoded."""
        lengths, vocabulary = self.runner.prefill_lengths, self.runner.vocabulary
        return from_the_start(lengths, length, vocabulary, to_the_end=True)

    def _quantisation(self) -> Verdict:
        if self.described.exact:
            return passed(QUANTISATION, "no constant is rounded: all are float32")
        types = ", ".join(self.described.types)
        if not self._rounding:
            return not_checked(QUANTISATION, f"constants are {types}, and no logits could be compared")
        change, unexplained = (max(each) for each in zip(*map(astuple, self._rounding), strict=True))
        bound = self.described.rounding
        said = f"{types} changes the logits by {change:.2g} σ (root mean square), {bound:g} are explained by rounding"
        if change > bound and self.described.recipe is not None:
            said += f"; from the model rounded in the same way they are {unexplained:.2g} σ off"
        return passed(QUANTISATION, said) if unexplained <= bound else failed(QUANTISATION, said)

    def _judge(self, layer: str, reading: Reading) -> Verdict:
        if unknown := self.described.unknown:
            return not_checked(layer, f"nobody has said what rounding to {', '.join(unknown)} explains")
        try:
            wanted = self.reference.placed(reading.tokens, reading.start, reading.compared)
        except (IndexError, RuntimeError, ValueError) as error:
            if is_ours(error):
                raise
            said = f"the model does not read {reading.start + reading.length} positions: {first_line(error)}"
            return not_checked(layer, said)
        try:
            logits, same = self._twice(reading)
        except RuntimeFailed as failure:
            return failed(layer, failure.message)
        if not same:
            return failed(layer, "the same text gives other logits the second time: something is left uninitialised")
        return self._compare(layer, reading, logits, wanted)

    def _twice(self, reading: Reading) -> tuple[Tensor, bool]:
        """The file's logits, and whether they are the same after something else was read."""
        logits = read(self.runner, reading)
        self.runner.reset()
        self.runner.decode(self.runner.vocabulary - 1)
        return logits, torch.equal(logits, read(self.runner, reading)) or bool(logits.isnan().any())

    def _compare(self, layer: str, reading: Reading, logits: Tensor, wanted: Tensor) -> Verdict:
        if self.described.exact:
            distances, allowed, unit = distance(logits, wanted), TOLERANCE, "σ"
        else:
            distances, allowed = self._unexplained(reading, logits, wanted), self.described.rounding
            unit = "σ (root mean square)"
        worst, positions = _largest(distances), [reading.start + index for index in reading.compared]
        if worst <= allowed:
            where = f"{len(positions)} positions from {positions[0]} to {positions[-1]}"
            return passed(layer, f"logits within {worst:.1e} {unit} at {where}")
        first = int((~(distances <= allowed)).nonzero()[0])
        said = f"logits are {worst:.2g} {unit} off, first at position {positions[first]}; {allowed:g} are allowed"
        return failed(layer, said)

    def _unexplained(self, reading: Reading, logits: Tensor, wanted: Tensor) -> Tensor:
        """How much of what is rounded in `logits` rounding does not explain, at each position in σ; it is kept."""
        recipe = self.described.recipe
        rounded = None if recipe is None else partial(self.rounded, reading, recipe)
        change, distances = unexplained(logits, wanted, self.described.rounding, rounded)
        self._rounding.append(_Rounding(_largest(change), _largest(distances)))
        return distances


def _first(reading: Reading, count: int) -> Reading:
    """The first `count` tokens of a text that is decoded."""
    assert all(slots == ONE for _, slots in reading.pieces)
    return Reading(reading.start, reading.pieces[:count], reading.vocabulary)


def _largest(distances: Tensor) -> float:
    """The largest, infinite where one is no number."""
    return float(distances.nan_to_num(nan=torch.inf).max())
