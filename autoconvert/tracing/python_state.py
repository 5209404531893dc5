"""Numbers that Python keeps from call to call: a trace holds only if nothing that it computes depends on them.

A number that a call changes is replaced by one that may be added to and stored but not read: a trace that ends has
not read it. It may be compared where the answer is the same after every number of tokens.
"""

import functools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy
from torch import Tensor, nn
from torch.export import ExportedProgram

from autoconvert.errors import Refused
from autoconvert.tracing.untraceable import calling_line

_NUMBERS = (bool, int, float)
_OPAQUE = (*_NUMBERS, str, bytes, complex, Tensor, numpy.ndarray, type, nn.Module, FunctionType, ModuleType)
# Of a torch module, what holds its parts and hooks and no number of its own.
_PARTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)


@dataclass(frozen=True, eq=False)
class Place:
    """Where Python keeps a number: `owner`, a container or a class, has it under `key`."""

    path: str
    owner: Any
    key: Any

    @property
    def is_replaceable(self) -> bool:
        """Whether another number can stand there: it is no length, and no part of a tuple."""
        return self.owner is not None and not isinstance(self.owner, tuple)

    # Two with one path are one place; their owners may be no keys of a dictionary.
    def __hash__(self) -> int:
        return hash(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.path == other.path

    def put(self, value: Any) -> None:
        if isinstance(self.owner, type):
            setattr(self.owner, self.key, value)
        else:
            self.owner[self.key] = value


class Unread:
    """A number of which is known only where it is kept, and the least and most it may be if it counts steps."""

    def __init__(self, path: str, least: float | None = None, most: float | None = None) -> None:
        self._path, self._least, self._most = path, least, most

    def __deepcopy__(self, _: Any) -> "Unread":
        return self

    def _moved(self, by: Any) -> "Unread":
        if type(by) not in (int, float):
            self._refuse()
        if self._least is None or self._most is None:
            return Unread(self._path)
        return Unread(self._path, self._least + by, self._most + by)

    def __add__(self, other: Any) -> "Unread":
        return self._moved(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Unread":
        return self._moved(-other if type(other) in (int, float) else other)

    def _compared(self, compare: Callable[[Any, Any], Any], other: Any) -> Any:
        if type(other) in (bool, int, float) and self._least is not None and self._most is not None:
            answers = {compare(self._least, other), compare(self._most, other)}
            is_order = compare not in (operator.eq, operator.ne)
            if len(answers) == 1 and (is_order or not self._least <= other <= self._most):
                return answers.pop()
        return self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Refused(
            f"What the model computes depends on {self._path}, a number in Python that changes from call to call.",
            hint=calling_line() or "Only tensors are kept from call to call.",
        )

    __hash__ = None  # type: ignore[assignment]


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Unread, Any], Any]:
    return lambda number, other: number._compared(compare, other)


for _compare in _COMPARISONS:
    setattr(Unread, f"__{_compare.__name__}__", _comparison(_compare))
_READ = "bool int float index complex len getitem round trunc floor ceil neg pos abs invert str format divmod rdivmod"
for _name in _READ.split():
    setattr(Unread, f"__{_name}__", Unread._refuse)
for _name in ("mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul"):
    setattr(Unread, f"__{_name}__", Unread._refuse)
    setattr(Unread, f"__r{_name}__", Unread._refuse)
Unread.__rsub__ = Unread._refuse  # type: ignore[attr-defined]
# With it, torch hands a function that is given one over, wherever it stands among the operands.
Unread.__torch_function__ = classmethod(  # type: ignore[attr-defined]
    lambda cls, func, types, args=(), kwargs=None: next(_unread((args, kwargs)))._refuse()
)


def _unread(value: Any) -> Iterator[Unread]:
    if isinstance(value, Unread):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _unread(item)


def numbers(value: Any, path: str, seen: set[int] | None = None) -> Iterator[tuple[Place, Any]]:
    """Every number in an object of containers and plain objects, and the length of every list, with its place."""
    seen = set() if seen is None else seen
    if id(value) in seen or value is None or isinstance(value, _OPAQUE):
        return
    seen.add(id(value))
    is_container = isinstance(value, dict | list | tuple)
    owner = value if is_container else getattr(value, "__dict__", None)
    if owner is None:
        return
    if isinstance(owner, list):
        yield Place(f"the length of {path}", None, None), len(owner)
    items: Iterable[tuple[Any, Any]] = list(owner.items() if isinstance(owner, dict) else enumerate(owner))
    for key, item in items:
        inner = f"{path}[{key!r}]" if is_container else f"{path}.{key}"
        if isinstance(item, (*_NUMBERS, Unread)):
            yield Place(inner, owner, key), item
        else:
            yield from numbers(item, inner, seen)


def numbers_of_module(module: nn.Module) -> Iterator[tuple[Place, Any]]:
    """The numbers that modules keep as attributes, of themselves, of their classes and of the files of these."""
    seen: set[int] = set()
    classes: dict[type, None] = {}
    for path, inner in module.named_modules():
        label = path or type(inner).__name__
        classes |= dict.fromkeys(c for c in type(inner).__mro__ if not _is_of_torch(c))
        for key, value in list(vars(inner).items()):
            if isinstance(value, (*_NUMBERS, Unread)):
                yield Place(f"{label}.{key}", vars(inner), key), value
            elif key not in _PARTS and not key.endswith("_hooks"):
                yield from numbers(value, f"{label}.{key}", seen)
    for cls in classes:
        for key, value in list(vars(cls).items()):
            if isinstance(value, (*_NUMBERS, Unread)):
                yield Place(f"{cls.__qualname__}.{key}", cls, key), value
    for name in dict.fromkeys(cls.__module__ for cls in classes):
        for key, value in list(vars(sys.modules[name]).items() if name in sys.modules else ()):
            if isinstance(value, (*_NUMBERS, Unread)) and not key.startswith("__"):
                yield Place(f"{key} of {name}", vars(sys.modules[name]), key), value
            elif isinstance(value, dict | list) and not key.startswith("__"):
                yield from numbers(value, f"{key} of {name}", seen)


def _is_of_torch(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("torch", "builtins", "autoconvert")


@contextmanager
def numbers_restored(module: nn.Module) -> Iterator[None]:
    """What Python numbers modules keep is as before when the context ends."""
    before = list(numbers_of_module(module))
    try:
        yield
    finally:
        put(before)


def put(known: Iterable[tuple[Place, Any]]) -> None:
    """Puts numbers where they stood; lengths and parts of tuples are as they are."""
    for place, value in known:
        if place.is_replaceable:
            place.put(value)


def changed(before: Iterable[tuple[Place, Any]], after: Iterable[tuple[Place, Any]]) -> list[tuple[Place, Any, Any]]:
    """The places of `before` whose number is another in `after`, or is not there, with both.

    Raises Refused where what changes is no number that could be replaced, such as the length of a list.
    """
    now = {place.path: value for place, value in after}
    found = [(place, value, now.get(place.path)) for place, value in before]
    differing = [(p, old, new) for p, old, new in found if not isinstance(old, Unread) and not _same(old, new)]
    for place, old, new in differing:
        if not place.is_replaceable:
            raise Refused(
                f"The model changes {place.path} from call to call: {old}, then {new}.",
                hint="Only tensors of one size are kept from call to call.",
            )
    return differing


def _same(old: Any, new: Any) -> bool:
    return type(old) is type(new) and (old == new or (old != old and new != new))


def unread(path: str, old: Any, new: Any, steps: int) -> Unread:
    """A number that is not to be read, in the place of one that a call changes from `old` to `new`.

    Where it counts, it may be compared with what it is not among in up to `steps` calls.
    """
    if type(old) is not int or type(new) is not int:
        return Unread(path)
    each = new - old
    # The first call may have been one of several tokens.
    ends = sorted((old, each, old + each * steps))
    return Unread(path, ends[0], ends[-1])


def with_numbers_unread(module: nn.Module, trace: Callable[[], ExportedProgram]) -> ExportedProgram:
    """What `trace` gives, which calls `module`; where calls change numbers, of a call that reads none of them.

    Raises:
        Refused: what the module computes depends on how often it was called.
    """
    before, after = list(numbers_of_module(module)), []
    forward = module.forward

    # Exporting puts back attributes, so that what a call changes is seen at its end only.
    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal after
        put(before)
        result = forward(*args, **kwargs)
        after = list(numbers_of_module(module))
        return result

    with numbers_restored(module):
        module.forward = watched
        try:
            traced = trace()
            once = changed(before, after)
            if not once:
                return traced
            # What the first call alone changes is no count of calls, but may decide what is computed.
            before = after
            if str(trace().graph) != str(traced.graph):
                raise Refused(
                    f"The model's second call computes something else than its first, which changes {once[0][0].path}.",
                    hint="Only tensors are kept from call to call.",
                )
            hidden = [(place, unread(place.path, old, new, sys.maxsize)) for place, old, new in changed(before, after)]
            before = [*before, *hidden]
            return trace()
        finally:
            del module.forward
