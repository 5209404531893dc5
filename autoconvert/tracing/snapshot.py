"""Snapshots of what Python keeps: what stands at each path, to be compared with a later one and to be put back."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum, auto
from types import CellType, MemberDescriptorType
from typing import Any

import numpy
import torch
from torch import Tensor

from autoconvert.tracing.unread import Unread

SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_MISSING = object()


class Extent(Enum):
    """Which of an owner's entries are known: all, some, or those of a module that tracing does not put back itself."""

    ALL = auto()
    SOME = auto()
    MODULE = auto()


@dataclass(frozen=True)
class Place:
    """Where Python keeps a number: `owner`, which is a container, a class, a cell or has slots, has it under `key`."""

    owner: Any
    key: Any

    def put(self, value: Any) -> None:
        """Something else stands there from now on."""
        if isinstance(self.owner, CellType):
            self.owner.cell_contents = value
        elif isinstance(self.owner, dict | list | deque):
            self.owner[self.key] = value
        else:
            (setattr if isinstance(self.owner, type) else object.__setattr__)(self.owner, self.key, value)


@dataclass(frozen=True)
class Fact:
    """What stands at a path: a value that is compared, and of a number that may be replaced its place."""

    value: Any
    place: Place | None = None


# Stands where a call has put a tensor that it made, which the next call has to make again.
MADE = Fact(object())


@dataclass(frozen=True)
class Change:
    """What stands at a path before and after a call; None where there is nothing."""

    path: str
    old: Fact | None
    new: Fact | None

    @property
    def place(self) -> Place | None:
        """Where a number stands that the call changes and that may be replaced; of anything else None."""
        both = [fact and type(fact.value) in (int, float) for fact in (self.old, self.new)]
        return self.old.place if self.old is not None and all(both) else None

    def __str__(self) -> str:
        told = [_told(fact.value) if fact else "nothing" for fact in (self.old, self.new)]
        return f"{self.path} from call to call" + (f": {told[0]}, then {told[1]}" if all(told) else "")


@dataclass
class Snapshot:
    """Facts by their path; and what each container and object holds. `tensors` has which one stands where."""

    facts: dict[str, Fact] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=dict)
    contents: list[tuple[Any, Any, Extent]] = field(default_factory=list)

    def put_back(self) -> None:
        """Everything is as it was; what tracing has put into modules, and puts back itself, is left to it."""
        for owner, held, extent in self.contents:
            if isinstance(owner, dict):
                _put_back_entries(owner, held, extent)
            elif isinstance(owner, list | deque):
                if len(owner) != len(held) or any(now is not then for now, then in zip(owner, held, strict=True)):
                    owner.clear()
                    owner.extend(held)
            elif isinstance(owner, set):
                if owner != held:
                    owner.clear()
                    owner.update(held)
            elif isinstance(owner, CellType):
                owner.cell_contents = held
            else:
                _put_back_attributes(owner, held)


def changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """The paths at which something else stands later."""
    paths = dict.fromkeys((*before.facts, *after.facts))
    both = (Change(path, before.facts.get(path), after.facts.get(path)) for path in paths)
    return [change for change in both if not _is_same(change.old, change.new)]


def attributes(owner: Any) -> dict[str, Any]:
    """What code has named in a class, or what an object has in slots."""
    if isinstance(owner, type):
        return {name: value for name, value in vars(owner).items() if _is_of_code(name, value)}
    # Types that are written in C have members too, which nobody can set.
    kinds = (vars(kind) for kind in type(owner).__mro__ if "__slots__" in vars(kind))
    members = (item for kind in kinds for item in kind.items())
    slots = {name for name, value in members if type(value) is MemberDescriptorType and not name.startswith("__")}
    return {name: getattr(owner, name) for name in sorted(slots) if hasattr(owner, name)}


def _is_of_code(name: str, value: Any) -> bool:
    is_written = not name.startswith("__") or callable(value)
    return is_written and name != "_abc_impl" and type(value) is not MemberDescriptorType


def _put_back_attributes(owner: Any, held: dict[str, Any]) -> None:
    is_class, now = isinstance(owner, type), attributes(owner)
    for name in now.keys() - held.keys():
        (delattr if is_class else object.__delattr__)(owner, name)
    for name, value in held.items():
        if now.get(name, _MISSING) is not value:
            (setattr if is_class else object.__setattr__)(owner, name, value)


def entries(owner: dict[Any, Any]) -> dict[Any, Any]:
    """What lies in a dictionary, in its order, whatever a subclass gives for it when it is asked."""
    keys = OrderedDict.__iter__(owner) if isinstance(owner, OrderedDict) else dict.__iter__(owner)
    return {key: dict.__getitem__(owner, key) for key in keys}


def _put_back_entries(owner: dict[Any, Any], held: dict[Any, Any], extent: Extent) -> None:
    now = entries(owner)
    if extent is Extent.ALL:
        if list(now) != list(held) or any(now[key] is not held[key] for key in held):
            kind = OrderedDict if isinstance(owner, OrderedDict) else dict
            kind.clear(owner)
            for key, value in held.items():
                kind.__setitem__(owner, key, value)
        return
    for key, value in now.items():
        is_left = value is None or _is_traced(value) or is_part(key)
        if extent is Extent.MODULE and key not in held and not is_left:
            del owner[key]
    for key, value in held.items():
        old = now.get(key, _MISSING)
        if old is not value and not (extent is Extent.MODULE and (_is_traced(old) or _is_traced(value))):
            owner[key] = value


def is_part(key: str) -> bool:
    """Whether an attribute of a torch module holds its parts or hooks, and no state of Python."""
    return key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set") or "_hooks" in key


def _is_traced(value: Any) -> bool:
    return isinstance(value, (Tensor, *SYMBOLS))


def _is_same(old: Fact | None, new: Fact | None) -> bool:
    if old is MADE or new is MADE:
        return True
    if old is None or new is None:
        return old is new
    a, b = old.value, new.value
    if type(a) is Unread:
        return a.may_become(b)
    if isinstance(a, SYMBOLS) or isinstance(b, SYMBOLS):
        # A size of the text is no count of calls.
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, numpy.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a is b or bool(a == b) or bool(a != a and b != b)


def _told(value: Any) -> str:
    """A value in few words; empty for what says nothing to a reader."""
    is_short = isinstance(value, (bool, int, float, str, type(None), Enum, tuple, frozenset)) and len(repr(value)) < 80
    return repr(value) if is_short else value.__name__ if isinstance(value, type) else ""
