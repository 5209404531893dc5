"""Checks the linked file: every operation in float32 against the source, and the file itself in the runtime.

A quantized file is compared twice. Run step by step with the source's weights it must give the source's logits; run
as it is, what quantization changes must be of the size of rounding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoconvert.check.parity import TOLERANCE, Reference, compare_logits
from autoconvert.check.readings import DECODE, Reading, at_the_end, from_all_starts, from_the_start, token_by_token
from autoconvert.check.stepwise import Call, open_stepwise
from autoconvert.errors import CheckFailed
from autoconvert.ir.interface import Role
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.cpu import CPU
from autoconvert.quantization.recipe import Recipe
from autoconvert.runtime.chunks import chunk
from autoconvert.runtime.runner import Runner
from autoconvert.source.weights import Weights

# Multiply-adds, a parameter and a position each, up to which a text is read to the end of the context.
_READ_WHOLE = 2_000_000_000
# The same, where only that can tell whether the end of the context is right.
_READ_WHOLE_IF_NEEDED = 200_000_000_000
_WHAT = "the file, run by its signatures,"


class Misread(CheckFailed):
    """A file says something else of `reading` than the source."""

    def __init__(self, failure: CheckFailed, reading: Reading) -> None:
        super().__init__(failure.message, hint=failure.hint)
        self.reading = reading


@dataclass(frozen=True)
class FileCheck:
    """What was compared: the largest distance in σ, what rounding changes in σ, and what was not run."""

    worst: float
    rounding: float | None
    not_run: tuple[str, ...]

    def __str__(self) -> str:
        exact = f"logits within {self.worst:.1e} σ"
        found = (
            exact if self.rounding is None else f"{exact} unquantized, rounding changes them by {self.rounding:.1e} σ"
        )
        return "; ".join((found, *self.not_run))


def check_linked_file(
    path: Path,
    runner: Runner,
    compiled: Compiled,
    weights: Weights,
    recipe: Recipe,
    reference: Reference,
    *,
    thorough: bool,
) -> FileCheck:
    """Compares the file at `path`, which `runner` runs, with the source; raises CheckFailed."""
    check = _Check(path, runner, compiled, weights, recipe, reference)
    lengths, capacity, vocabulary = runner.prefill_lengths, runner.capacity, runner.vocabulary
    size = reference.parameters * capacity
    to_the_end = thorough or size <= _READ_WHOLE
    readings = from_all_starts(lengths, capacity, vocabulary, compiled.windows, to_the_end=to_the_end)
    if thorough:
        readings.append(token_by_token(capacity, vocabulary))
    not_run = [f"windows of {n} positions were not passed" for n in compiled.windows if n >= readings[0].length]
    found = check.compare(readings)
    if not to_the_end and readings[0].length < capacity and min(lengths) + 2 <= capacity:
        try:
            found = _both(found, check.compare([at_the_end(lengths, capacity, vocabulary)]))
        except CheckFailed:
            # A source that counts positions in another way than it is told says nothing of a text that begins late.
            if size > _READ_WHOLE_IF_NEEDED:
                not_run.append("the end of the context was not run: --verify full does")
            else:
                found = check.compare([from_the_start(lengths, capacity, vocabulary, to_the_end=True)])
    return FileCheck(*found, tuple(not_run))


Found = tuple[float, float | None]


@dataclass(frozen=True)
class _Check:
    path: Path
    runner: Runner
    compiled: Compiled
    weights: Weights
    recipe: Recipe
    reference: Reference

    def compare(self, readings: Sequence[Reading]) -> Found:
        """The largest distance, and what rounding changes where there is any."""
        expected = [self.reference.placed(r.tokens, r.start, r.compared) for r in readings]
        runs = [read(self.runner, reading) for reading in readings]
        if self.recipe.exact:
            return max(map(_distance, runs, expected, readings)), None
        with open_stepwise(self.path, self.compiled.weights, self.weights) as stepwise:
            outputs = stepwise.run([calls_of(reading, self.runner) for reading in readings])
        exact = [_logits(chain) for chain in outputs]
        worst = max(map(_distance, exact, expected, readings))
        return worst, max(self._rounding(run, wanted) for run, wanted in zip(runs, expected, strict=True))

    def _rounding(self, logits: Tensor, expected: Tensor) -> float:
        change = float(((logits - expected).square().mean(-1).sqrt() / expected.std(-1)).max())
        if not change <= self.recipe.rounding:
            raise CheckFailed(
                f"The check failed: the quantized file's logits differ from the model's by {change:.2g} standard "
                f"deviations (root mean square), and rounding explains at most {self.recipe.rounding:g}.",
                hint="Convert with --quantize none to see whether the model can be quantized this way at all.",
            )
        return change


def read(runner: Runner, reading: Reading) -> Tensor:
    """The file's logits [compared, vocabulary] of a reading."""
    runner.reset(reading.start)
    logits, begin = [], 0
    for real, slots in reading.pieces:
        tokens = reading.tokens[begin : begin + real]
        if slots == DECODE:
            logits.append(runner.decode(tokens[0]))
        else:
            runner.take(tokens, slots)
        begin += real
    return torch.stack(logits)


def calls_of(reading: Reading, runner: Runner) -> list[Call]:
    """The same reading as calls of signatures."""
    calls: list[Call] = []
    begin = 0
    for real, slots in reading.pieces:
        tokens, position = reading.tokens[begin : begin + real], reading.start + begin
        part = chunk(tokens, position, slots or 1, runner.capacity, first=reading.start)
        signature = runner.signature_of(slots)
        calls.append((signature, runner.inputs_of(signature, part)))
        begin += real
    return calls


def _logits(outputs: Iterable[Any]) -> Tensor:
    name = CPU.port_names[Role.LOGITS]
    return torch.stack([torch.from_numpy(output[name]).reshape(-1) for output in outputs if name in output])


def _distance(logits: Tensor, expected: Tensor, reading: Reading) -> float:
    positions = [reading.start + index for index in reading.compared]
    try:
        return compare_logits(logits, expected, _WHAT, TOLERANCE, positions)
    except CheckFailed as failure:
        raise Misread(failure, reading) from None


def _both(one: Found, other: Found) -> Found:
    roundings = [rounding for _, rounding in (one, other) if rounding is not None]
    return max(one[0], other[0]), max(roundings, default=None)
