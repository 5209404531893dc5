"""Python's state: what is kept from call to call and is no tensor, wherever the code of a model can reach it.

It is looked for in containers, objects, iterators and closures, in classes, and in the globals that the code names.
Python's own objects, torch's and numpy's are opaque, apart from those in which code keeps its place.
"""

import random
import sys
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property, partial, partialmethod
from threading import Thread
from types import CodeType, FunctionType, GeneratorType, MappingProxyType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy
from torch import Tensor, nn

from autoconvert.tracing.snapshot import MADE, SYMBOLS, Extent, Fact, Place, Snapshot, attributes, entries, is_part
from autoconvert.tracing.unread import Unread

_PLAIN = (bool, int, float, str, bytes, complex, type(None), numpy.generic)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}
_OURS = "autoconvert"
# Of Python's own objects, those that keep a place: iterators, and random numbers.
_WITH_A_PLACE = {"itertools", "random", "_random", "array"}
# More entries than these, all of them plain, are one fact.
_MANY = 64

# Of the methods that Python itself calls, those that make an object; code that makes one names its class.
_NOT_CALLED = ("__init__", "__new__", "__init_subclass__", "__class_getitem__", "__reduce__", "__setstate__")

_Item = tuple[str, Any, Place | None]


def state_of(
    module: nn.Module, others: Mapping[str, Any] = MappingProxyType({}), *, known: Snapshot | None = None
) -> Snapshot:
    """What modules keep beside their parameters and buffers, and what `others` do, such as a cache, by their names.

    Tensors that are not in the snapshot `known`, where there is one, are left out: a call has made them.
    """
    modules = [(path or type(inner).__name__, inner) for path, inner in module.named_modules()]
    tensors = None if known is None else frozenset(known.tensors.values())
    return _walked([(path, value, None) for path, value in [*modules, *others.items()]], tensors)


@contextmanager
def state_restored(module: nn.Module) -> Iterator[Snapshot]:
    """What modules keep in Python is as before when the context ends."""
    before = state_of(module)
    try:
        yield before
    finally:
        before.put_back()


@dataclass
class _Walk:
    """A walk over what the roots reach: `named` are the names in code that was reached, others wait for them."""

    known: frozenset[int] | None
    snapshot: Snapshot = field(default_factory=Snapshot)
    named: set[str] = field(default_factory=lambda: {"forward"})
    waiting: dict[str, list[_Item]] = field(default_factory=lambda: defaultdict(list))
    pending: list[_Item] = field(default_factory=list)

    def is_made(self, value: Any) -> bool:
        """Whether it is, or has in it what it cannot be without, a tensor that a call has made."""
        if self.known is not None and isinstance(value, Tensor):
            return id(value) not in self.known
        return isinstance(value, tuple) and any(map(self.is_made, value))

    def name(self, names: Iterable[str]) -> None:
        """Methods of these names may be called."""
        for name in names:
            if name not in self.named:
                self.named.add(name)
                self.pending.extend(self.waiting.pop(name, ()))


def _walked(roots: Iterable[_Item], known: frozenset[int] | None) -> Snapshot:
    walk = _Walk(known, pending=list(roots)[::-1])
    # A module that is a root has its own path wherever else it stands.
    seen = {id(value): path for path, value, _ in walk.pending}
    # What a walk makes lives until its end, so that no other object gets its id.
    facts, visited, alive = walk.snapshot.facts, set[str](), list[Any]()
    while walk.pending:
        path, value, place = walk.pending.pop()
        if path in visited:
            continue
        visited.add(path)
        alive.append(value)
        if type(value) is Unread or isinstance(value, (*_PLAIN, *SYMBOLS, Enum)):
            facts[path] = Fact(value, place)
        elif walk.is_made(value):
            facts[path] = MADE
        elif isinstance(value, Tensor):
            facts[path] = Fact("a tensor")
            walk.snapshot.tensors[path] = id(value)
        elif seen.setdefault(id(value), path) != path:
            facts[path] = Fact(f"the same as {seen[id(value)]}")
        else:
            walk.pending.extend([*_parts(walk, path, value)][::-1])
    return walk.snapshot


def _parts(walk: _Walk, path: str, value: Any) -> Iterator[_Item]:
    """What is to be walked in `value`; the rest is told to the snapshot."""
    kind, snapshot = type(value), walk.snapshot
    snapshot.facts[path] = Fact(kind)
    if isinstance(value, FunctionType):
        yield from _of_function(walk, path, value)
    elif isinstance(value, type):
        yield from _of_class(walk, path, value)
    elif isinstance(value, MethodType | staticmethod | classmethod):
        yield from _named(path, value, "__func__", "__self__")
    elif isinstance(value, property):
        yield from _named(path, value, "fget", "fset")
    elif isinstance(value, partial | partialmethod | cached_property):
        yield from _named(path, value, "func", "args", "keywords")
    elif isinstance(value, numpy.ndarray):
        snapshot.facts[path] = Fact(value.copy())
    elif isinstance(value, bytearray):
        snapshot.facts[path] = Fact(bytes(value))
    elif isinstance(value, numpy.random.Generator):
        snapshot.facts[f"the place in {path}"] = Fact(repr(value.bit_generator.state))
    elif isinstance(value, list | tuple | deque | dict | set | frozenset):
        yield from _of_container(walk, path, value)
        yield from _of_object(walk, path, value)
    elif isinstance(value, GeneratorType):
        frame = value.gi_frame
        snapshot.facts[f"the place in {path}"] = Fact(frame and frame.f_lasti)
        # As a tuple: what stands in it is not replaced.
        yield f"the names in {path}", tuple(frame.f_locals.items()) if frame else (), None
    elif isinstance(value, Thread):
        # What runs beside the calls changes in time, not by them.
        snapshot.facts[path] = Fact(value)
    elif isinstance(value, nn.Module | SimpleNamespace) or not _is_of_library(kind.__module__):
        yield from _of_object(walk, path, value)
    elif (hasattr(kind, "__next__") and kind.__module__ != "_io") or kind.__module__ in _WITH_A_PLACE:
        yield f"the place in {path}", _reduced(value), None
    else:
        snapshot.facts[path] = Fact(value)


def _named(path: str, value: Any, *names: str) -> Iterator[_Item]:
    yield from ((f"{path}.{name}", getattr(value, name), None) for name in names if hasattr(value, name))


def _reduced(value: Any) -> Any:
    """What a copy of `value` would be made of; where it cannot be copied, something new at each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return value.__reduce_ex__(4)
        except (TypeError, NotImplementedError):
            return object()


def _of_container(walk: _Walk, path: str, value: Any) -> Iterator[_Item]:
    snapshot = walk.snapshot
    held = entries(value) if isinstance(value, dict) else list(value)
    if isinstance(held, dict):
        yield from ((f"{path}[{key!r}]", entry, None) for key, entry in held.items() if walk.is_made(entry))
        held = {key: entry for key, entry in held.items() if not walk.is_made(entry)}
    else:
        held = [entry for entry in held if not walk.is_made(entry)]
    is_mutable = isinstance(value, list | deque | dict | set)
    if is_mutable:
        snapshot.contents.append((value, set(held) if isinstance(value, set) else held, Extent.ALL))
    if isinstance(value, dict):
        snapshot.facts[f"the keys of {path}"] = Fact(tuple(map(_compared, held)))
    elif isinstance(value, set | frozenset):
        snapshot.facts[f"the entries of {path}"] = Fact(frozenset(map(_compared, held)))
        held = [entry for entry in held if not isinstance(entry, _PLAIN)]
    else:
        snapshot.facts[f"the length of {path}"] = Fact(len(held))
    pairs = list(held.items() if isinstance(held, dict) else enumerate(held))
    if len(pairs) > _MANY and all(type(entry) in _PLAIN for _, entry in pairs):
        snapshot.facts[f"the entries of {path}"] = Fact(tuple(entry for _, entry in pairs))
        return
    is_placed = is_mutable and not isinstance(value, set)
    for index, (key, entry) in enumerate(pairs):
        name = repr(key) if isinstance(key, _PLAIN) else f"key {index}"
        yield f"{path}[{name}]", entry, Place(value, key) if is_placed else None


def _compared(key: Any) -> Any:
    """By what an entry of a set or a key is compared: its value, or that it is the same object."""
    return key if isinstance(key, (*_PLAIN, Enum, type)) else ("the object", id(key))


def _of_object(walk: _Walk, path: str, value: Any) -> Iterator[_Item]:
    """Attributes, in a dictionary or in slots, and the class."""
    snapshot = walk.snapshot
    kind, held = type(value), getattr(value, "__dict__", None)
    if not _is_of_library(kind.__module__):
        yield _name_of(kind), kind, None
    if isinstance(held, dict):
        is_module = isinstance(value, nn.Module)
        own = {name: item for name, item in held.items() if not (is_module and is_part(name))}
        kept = {name: item for name, item in own.items() if not walk.is_made(item)}
        snapshot.contents.append((held, kept, Extent.MODULE if is_module else Extent.ALL))
        if is_module:
            snapshot.contents.append((held["_modules"], entries(held["_modules"]), Extent.ALL))
        yield from ((f"{path}.{name}", item, Place(held, name)) for name, item in own.items())
        for hooks in ("_forward_pre_hooks", "_forward_hooks") if is_module else ():
            yield from ((f"{path}.{hooks}[{key}]", hook, None) for key, hook in held.get(hooks, {}).items())
    if slots := attributes(value):
        snapshot.contents.append((value, slots, Extent.ALL))
        yield from ((f"{path}.{name}", item, Place(value, name)) for name, item in slots.items())


def _of_class(walk: _Walk, path: str, kind: type) -> Iterator[_Item]:
    """What it keeps, and the methods that code which was reached names, or Python itself calls."""
    walk.snapshot.facts[path] = Fact(kind)
    if _is_of_library(kind.__module__) or kind.__module__.partition(".")[0] == _OURS:
        return
    own, name = attributes(kind), _name_of(kind)
    walk.snapshot.contents.append((kind, own, Extent.ALL))
    for key, value in own.items():
        item = f"{name}.{key}", value, Place(kind, key)
        is_method = isinstance(value, FunctionType | staticmethod | classmethod | property | cached_property)
        is_called = not is_method or key in walk.named
        if is_called or (key.startswith("__") and key not in _NOT_CALLED):
            yield item
        else:
            walk.waiting[key].append(item)
    yield from ((_name_of(base), base, None) for base in kind.__bases__)


def _of_function(walk: _Walk, path: str, function: FunctionType) -> Iterator[_Item]:
    """What it closes over, its defaults and attributes, and the globals that its code names."""
    walk.snapshot.facts[path] = Fact(function.__code__)
    of = str(function.__globals__.get("__name__"))
    if of.partition(".")[0] == _OURS:
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        held = [cell.cell_contents] if _is_filled(cell) else []
        walk.snapshot.contents.extend((cell, item, Extent.ALL) for item in held)
        yield from ((f"{name} of {path}", item, Place(cell, None)) for item in held)
    walk.snapshot.contents.append((vars(function), dict(vars(function)), Extent.ALL))
    yield from ((f"{path}.{name}", item, Place(vars(function), name)) for name, item in list(vars(function).items()))
    yield from _named(path, function, "__defaults__", "__kwdefaults__")
    if not _is_of_library(of):
        names = _names(function.__code__)
        walk.name(names)
        yield from _of_names(walk.snapshot, names, function.__globals__)


def _of_names(snapshot: Snapshot, names: frozenset[str], space: dict[str, Any]) -> Iterator[_Item]:
    """What stands under `names` in a file, and in the files that these name."""
    found = {name: space[name] for name in sorted(names) if name in space}
    snapshot.contents.append((space, found, Extent.SOME))
    for name, item in found.items():
        if item is random:
            yield "Python's random numbers", random._inst, None
        elif not isinstance(item, ModuleType):
            yield f"{name} of {space['__name__']}", item, Place(space, name)
        elif not _is_of_library(item.__name__):
            inside = {inner: vars(item)[inner] for inner in sorted(names) if inner in vars(item)}
            snapshot.contents.append((vars(item), inside, Extent.SOME))
            yield from ((f"{n} of {item.__name__}", value, Place(vars(item), n)) for n, value in inside.items())


@cache
def _names(code: CodeType) -> frozenset[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*inner)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_of_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES
