"""Checks the linked file: every operation in float32 against the source, and the file itself in the runtime.

A quantized file is compared twice. Run step by step with the source's weights it must give the source's logits; run
as it is, what quantization changes must be of the size of rounding.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoconvert.check.expected import Expected
from autoconvert.check.parity import OF_ROUNDING, TOLERANCE, compare_logits, distance, unexplained
from autoconvert.check.plan import Plan
from autoconvert.check.readings import DECODE, Reading
from autoconvert.check.step_weights import StepWeights
from autoconvert.check.stepwise import open_stepwise
from autoconvert.errors import CheckFailed
from autoconvert.ir.interface import Role
from autoconvert.lowering.compiled import Compiled
from autoconvert.lowering.cpu import CPU
from autoconvert.quantization.recipe import Recipe
from autoconvert.runtime.chunks import chunk
from autoconvert.runtime.runner import Runner
from autoconvert.runtime.signatures import TextSignatures
from autoconvert.runtime.stepwise import Call
from autoconvert.source.weights import Weights
from autoconvert.system.threads import threads

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
    rounding: float
    recipe: Recipe
    not_run: tuple[str, ...]

    def __str__(self) -> str:
        found = f"logits within {self.worst:.1e} σ"
        if self.worst > TOLERANCE:
            found += ", as far as float32 rounds the model itself,"
        if not self.recipe.exact:
            found += f" unquantized, {self.recipe.name} changes them by {self.rounding:.1e} σ"
        return "; ".join((found, *self.not_run))


def check_linked_file(
    path: Path,
    start: Callable[[], Runner],
    compiled: Compiled,
    plan: Plan,
    weights: Weights,
    recipe: Recipe,
    source: Expected,
) -> FileCheck:
    """Compares the file at `path`, which what `start` gives runs, with the source at all that `plan` reads.

    Raises CheckFailed.
    """
    check = _Check(path, start, compiled, weights, recipe, source)
    heard = check.read(plan.texts, plan.late)
    found = [check.judge(each) for each in heard[: len(plan.texts)]]
    not_run = list(plan.not_run)
    try:
        found += [check.judge(each) for each in heard[len(plan.texts) :]]
    except CheckFailed:
        # A source that counts positions in another way than it is told says nothing of a text that begins late.
        if plan.whole is None:
            not_run.append("the end of the context was not run: --verify full does")
        else:
            found += map(check.judge, check.read([plan.whole]))
    return FileCheck(max(worst for worst, _ in found), max(change for _, change in found), recipe, tuple(not_run))


@dataclass(frozen=True)
class _Heard:
    """Logits [compared, vocabulary] of a reading: the source's, the file's in float32, and those of the file as it is.

    `expected` is None where the source cannot read a text that begins so late, `plain` where the file as it is was not
    asked.
    """

    reading: Reading
    expected: Tensor | None
    exact: Tensor
    plain: Tensor | None


@dataclass(frozen=True)
class _Check:
    path: Path
    start: Callable[[], Runner]
    compiled: Compiled
    weights: Weights
    recipe: Recipe
    source: Expected

    def read(self, texts: Sequence[Reading], late: Sequence[Reading] = ()) -> list[_Heard]:
        """Reads texts in all three ways, one after the other: each has its own peak of memory.

        What is `late` takes a whole cache; of a rounded file it is read step by step alone, in the same kernels.
        """
        readings = (*texts, *late)
        exact = None if self.recipe.exact else self._stepwise(readings)
        expected = [self.source.logits(reading) for reading in readings]
        runner = self.start()
        if exact is None:
            plain = [read(runner, reading) for reading in readings]
            return list(map(_Heard, readings, expected, plain, plain))
        rounded = [*(read(runner, reading) for reading in texts), *(None for _ in late)]
        return list(map(_Heard, readings, expected, exact, rounded))

    def judge(self, heard: _Heard) -> tuple[float, float]:
        """How far the file lies from the source in float32, and what rounding changes; raises CheckFailed."""
        if heard.expected is None:
            raise CheckFailed(f"The source reads no text that begins at position {heard.reading.start}.")
        worst = self._distance(heard.exact, heard.expected, heard.reading)
        if heard.plain is None or self.recipe.exact:
            return worst, 0.0
        return worst, self._rounding(heard.plain, heard.expected, heard.reading)

    def _stepwise(self, readings: Sequence[Reading]) -> list[Tensor]:
        # The other core opens the file as it is.
        with threads(1):
            weights = StepWeights(self.compiled.weights, self.weights)
            with open_stepwise(self.path, weights) as stepwise:
                signatures = stepwise.signatures()
                outputs = stepwise.run([calls_of(reading, signatures) for reading in readings])
            return [_logits(chain) for chain in outputs]

    def _distance(self, logits: Tensor, expected: Tensor, reading: Reading) -> float:
        positions = [reading.start + index for index in reading.compared]
        try:
            return compare_logits(logits, expected, _WHAT, TOLERANCE, positions)
        except CheckFailed as failure:
            own = self.source.rounding(reading)
            found = distance(logits, expected)
            # Where float32 rounds the source itself by more, it says no more of the file.
            if own is None or not bool((found <= (OF_ROUNDING * own).clamp(min=TOLERANCE)).all()):
                raise Misread(failure, reading) from None
            return float(found.max())

    def _rounding(self, logits: Tensor, expected: Tensor, reading: Reading) -> float:
        allowed = self.recipe.rounding
        rounded = partial(self.source.rounded, reading, self.recipe)
        distances = unexplained(logits, expected, allowed, rounded)
        change, beyond = (float(each.max()) for each in distances)
        if not beyond <= allowed:
            raise CheckFailed(
                f"The check failed: the quantized file's logits differ from the model's by {change:.2g} standard "
                f"deviations (root mean square), and from those of the model rounded in the same way by {beyond:.2g}: "
                f"chance explains at most {allowed:g}.",
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


def calls_of(reading: Reading, signatures: TextSignatures) -> list[Call]:
    """The same reading as calls of signatures."""
    calls: list[Call] = []
    begin = history = 0
    for real, slots in reading.pieces:
        tokens, position = reading.tokens[begin : begin + real], reading.start + begin
        history = max(history, signatures.history(position + (slots or 1)))
        part = chunk(tokens, position, slots or 1, history, first=reading.start)
        name = signatures.signature_of(slots)
        calls.append(Call(name, signatures.inputs_of(name, part), part.real, part.size, history))
        begin += real
    return calls


def _logits(outputs: Iterable[Any]) -> Tensor:
    name = CPU.port_names[Role.LOGITS]
    return torch.stack([torch.from_numpy(output[name]).reshape(-1) for output in outputs if name in output])
