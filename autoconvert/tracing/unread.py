"""Numbers that are not to be read: a trace that ends with one in the place of a number does not depend on it.

It may be added to, stored, and compared where the answer is the same after every number of tokens. A logger may write
it, since what it writes nothing reads back; text that the model's own code makes of it could decide anything.
"""

import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from autoconvert.errors import Refused
from autoconvert.tracing.untraceable import calling_line, is_of_a_model

_COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)
# What a logger asks for as it fills its message, and what it is told.
_TOLD = {"str": "?", "format": "?", "int": 0, "index": 0, "float": 0.0}


@dataclass(frozen=True)
class Count:
    """A number that is `now` and grows by `each` at every call; it lies between `least` and `most` in all of them."""

    now: int
    each: int
    least: int
    most: int

    def moved(self, by: int) -> "Count":
        return Count(self.now + by, self.each, self.least + by, self.most + by)


class Unread:
    """A number of which is known only where it is kept, and how it counts calls, if it does."""

    def __init__(self, path: str, count: Count | None = None) -> None:
        self._path, self._count = path, count

    def __deepcopy__(self, _: Any) -> "Unread":
        return self

    def __copy__(self) -> "Unread":
        return self

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # `isinstance` in a model's code would say that it is no number.
        return self._refuse() if is_of_a_model(_asking().f_code.co_filename) else Unread

    def __repr__(self) -> str:
        return str(self._refuse()) if is_of_a_model(_asking().f_code.co_filename) else f"Unread({self._path!r})"

    def _moved(self, by: Any) -> "Unread":
        if type(by) not in (int, float):
            self._refuse()
        return Unread(self._path, self._count.moved(by) if self._count and type(by) is int else None)

    def __add__(self, other: Any) -> "Unread":
        return self._moved(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Unread":
        return self._moved(-other if type(other) in (int, float) else other)

    def may_become(self, new: Any) -> bool:
        """Whether a call may leave `new` in its place, so that what is known of it holds for every later call."""
        if self._count is None:
            return type(new) in (int, float, Unread)
        if type(new) is int:
            return self._count.least <= new <= self._count.most
        counts = new._count if type(new) is Unread else None
        return counts is not None and (counts.now, counts.each) == (
            self._count.now + self._count.each,
            self._count.each,
        )

    def _compared(self, compare: Callable[[Any, Any], Any], other: Any) -> Any:
        if type(other) in (bool, int, float) and self._count is not None:
            least, most = self._count.least, self._count.most
            answers = {compare(least, other), compare(most, other)}
            is_order = compare not in (operator.eq, operator.ne)
            if len(answers) == 1 and (is_order or not least <= other <= most):
                return answers.pop()
        return self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Refused(
            f"What the model computes depends on {self._path}, a number in Python that changes from call to call.",
            hint=calling_line() or "Only tensors are kept from call to call.",
        )

    __hash__ = None  # type: ignore[assignment]


def _asking() -> FrameType:
    """The frame that asks an Unread something, through Python's abstract classes or not."""
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__") in ("abc", "typing") and frame.f_back:
        frame = frame.f_back
    return frame


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Unread, Any], Any]:
    return lambda number, other: number._compared(compare, other)


def _told(value: Any) -> Callable[..., Any]:
    def tell(number: Unread, *_: Any) -> Any:
        return value if _asking().f_globals.get("__name__") == "logging" else number._refuse()

    return tell


for _compare in _COMPARISONS:
    setattr(Unread, f"__{_compare.__name__}__", _comparison(_compare))
_READ = "bool complex len getitem iter round trunc floor ceil neg pos abs invert divmod rdivmod"
for _name in _READ.split():
    setattr(Unread, f"__{_name}__", Unread._refuse)
for _name, _value in _TOLD.items():
    setattr(Unread, f"__{_name}__", _told(_value))
for _name in ("mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul"):
    setattr(Unread, f"__{_name}__", Unread._refuse)
    setattr(Unread, f"__r{_name}__", Unread._refuse)
Unread.__rsub__ = Unread._refuse  # type: ignore[attr-defined]
# With it, torch hands a function that is given one over, wherever it stands among the operands.
Unread.__torch_function__ = classmethod(  # type: ignore[attr-defined]
    lambda cls, func, types, args=(), kwargs=None: next(_unread((args, kwargs)))._refuse()
)


def _unread(value: Any) -> Iterator[Unread]:
    if type(value) is Unread:
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _unread(item)


def unread(path: str, old: Any, new: Any, steps: int) -> Unread:
    """A number that is not to be read, in the place of one that a call changes from `old` to `new`.

    Where it counts, it may be compared with what it is not among in up to `steps` calls.
    """
    if type(old) is not int or type(new) is not int:
        return Unread(path)
    each = new - old
    # The first call may have been one of several tokens.
    ends = sorted((old, each, old + each * steps))
    return Unread(path, Count(old, each, ends[0], ends[-1]))
