"""Intervals of numbers: what arithmetic gives for any numbers between two bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

# A whole number, or an infinity.
Bound = int | float


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` up to and with `high`; `whole` where all are whole, which any type of numbers can hold."""

    low: Bound
    high: Bound
    whole: bool = False

    def __str__(self) -> str:
        return f"{_text(self.low)} to {_text(self.high)}"

    @property
    def size(self) -> Bound:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def within(self, other: "Interval") -> bool:
        return other.low <= self.low and self.high <= other.high

    def __or__(self, other: "Interval") -> "Interval":
        """What is in either."""
        return Interval(min(self.low, other.low), max(self.high, other.high), self.whole and other.whole)

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low, self.whole)

    def __add__(self, other: "Interval") -> "Interval":
        low, high = self.low + other.low, self.high + other.high
        return _interval([low, high], self.whole and other.whole)

    def __sub__(self, other: "Interval") -> "Interval":
        return self + -other

    def __mul__(self, other: "Interval") -> "Interval":
        return _corners(_times, self, other, self.whole and other.whole)

    def sums(self, most: Bound) -> "Interval":
        """Sums of up to `most` of the numbers, and all that come before they are done."""
        none = Interval(0, 0, whole=True)
        return none | self * Interval(most, most, whole=True)

    def magnitude(self) -> "Interval":
        low = 0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        return Interval(low, self.size, self.whole)

    def remainder(self, other: "Interval") -> "Interval":
        """Of the sign of the divisor, as Python has it."""
        if self.low >= 0 and other.low > self.high:
            return self
        step = 1 if self.whole and other.whole else 0
        return Interval(min(0, other.low + step), max(0, other.high - step), self.whole and other.whole)


ANYTHING = Interval(-math.inf, math.inf)
TRUTH = Interval(0, 1, whole=True)


def at(number: Bound) -> Interval:
    """The one number."""
    if number != number:
        return ANYTHING
    return Interval(number, number, isinstance(number, int) or float(number).is_integer())


def whole(low: Bound, high: Bound) -> Interval:
    return Interval(low, high, whole=True)


def _corners(function: Callable[[Bound, Bound], Bound], a: Interval, b: Interval, is_whole: bool) -> Interval:
    return _interval([function(x, y) for x, y in product((a.low, a.high), (b.low, b.high))], is_whole)


def _interval(bounds: list[Bound], is_whole: bool) -> Interval:
    if any(bound != bound for bound in bounds):
        return ANYTHING
    return Interval(min(bounds), max(bounds), is_whole)


def _times(a: Bound, b: Bound) -> Bound:
    """No number times nothing is nothing, also where the number has no bound."""
    return 0 if a == 0 or b == 0 else a * b


def _text(bound: Bound) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
