"""Intervals of numbers: what arithmetic gives for any numbers between two bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

# A whole number, or an infinity.
Bound = int | float

_LARGEST_EXPONENT = 1000


@dataclass(frozen=True)
class Interval:
    """The multiples of `unit`, a power of two, from `low` up to and with `high`; all numbers between where it is 0."""

    low: Bound
    high: Bound
    unit: float = 0.0

    def __str__(self) -> str:
        return f"{_text(self.low)} to {_text(self.high)}"

    @property
    def size(self) -> Bound:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def whole(self) -> bool:
        """Whether all are whole numbers."""
        return self.unit >= 1

    def is_held_by(self, digits: int) -> bool:
        """Whether floating-point numbers of so many binary digits hold each of them, without rounding."""
        return self.size <= self.unit * 2**digits

    def within(self, other: "Interval") -> bool:
        return other.low <= self.low and self.high <= other.high

    def __or__(self, other: "Interval") -> "Interval":
        """What is in either."""
        return Interval(min(self.low, other.low), max(self.high, other.high), min(self.unit, other.unit))

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low, self.unit)

    def __add__(self, other: "Interval") -> "Interval":
        low, high = self.low + other.low, self.high + other.high
        return _interval([low, high], min(self.unit, other.unit))

    def __sub__(self, other: "Interval") -> "Interval":
        return self + -other

    def __mul__(self, other: "Interval") -> "Interval":
        return _corners(_times, self, other, _product_of_units(self.unit, other.unit))

    def sums(self, most: Bound) -> "Interval":
        """Sums of up to `most` of the numbers, and all that come before they are done."""
        return at(0) | self * whole(most, most)

    def at_least(self, least: "Interval") -> "Interval":
        """The larger of each number and one of `least`."""
        return Interval(max(self.low, least.low), max(self.high, least.high), min(self.unit, least.unit))

    def at_most(self, most: "Interval") -> "Interval":
        """The smaller of each number and one of `most`."""
        return Interval(min(self.low, most.low), min(self.high, most.high), min(self.unit, most.unit))

    def magnitude(self) -> "Interval":
        low = 0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        return Interval(low, self.size, self.unit)

    def remainder(self, other: "Interval") -> "Interval":
        """Of the sign of the divisor, as Python has it."""
        if self.low >= 0 and other.low > self.high:
            return self
        unit = min(self.unit, other.unit)
        step = int(unit) if unit < math.inf else 0
        return Interval(min(0, other.low + step), max(0, other.high - step), unit)


ANYTHING = Interval(-math.inf, math.inf)
TRUTH = Interval(0, 1, 1.0)


def at(number: Bound) -> Interval:
    """The one number."""
    if number != number:
        return ANYTHING
    return Interval(number, number, _unit(number))


def whole(low: Bound, high: Bound) -> Interval:
    return Interval(low, high, 1.0)


def _unit(number: Bound) -> float:
    """The largest power of two that a number is a multiple of; of 0 there is no end."""
    if number == 0 or math.isinf(number):
        return math.inf if number == 0 else 0.0
    numerator, denominator = number.as_integer_ratio()
    return math.ldexp(1.0, min((numerator & -numerator).bit_length() - denominator.bit_length(), _LARGEST_EXPONENT))


def _product_of_units(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _corners(function: Callable[[Bound, Bound], Bound], a: Interval, b: Interval, unit: float) -> Interval:
    return _interval([function(x, y) for x, y in product((a.low, a.high), (b.low, b.high))], unit)


def _interval(bounds: list[Bound], unit: float) -> Interval:
    if any(bound != bound for bound in bounds):
        return ANYTHING
    return Interval(min(bounds), max(bounds), unit)


def _times(a: Bound, b: Bound) -> Bound:
    """No number times nothing is nothing, also where the number has no bound."""
    return 0 if a == 0 or b == 0 else a * b


def _text(bound: Bound) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
