"""Folding: of layers that are the same computation one is shown, and the others say which.

Layers are modules numbered below one path. Two are the same if their nodes are, in order: operations, arguments,
types, constants by their content, weights by their names below the layer, and where every operand comes from.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoconvert.dump.entry import GIVEN, Entry, identifier
from autoconvert.report.folding import runs

_NAME = re.compile(r"%(\w+)")


@dataclass(frozen=True)
class Layer:
    """Module `index` below `path`, and its entries in order."""

    path: str
    index: int
    entries: tuple[Entry, ...]

    @property
    def module(self) -> str:
        return f"{self.path}.{self.index}".removeprefix(".")


@dataclass(frozen=True)
class Alike:
    """The layers `indices` are like `layer`; where that reads a value, they read that of another name.

    `reads` are pairs of these names; `{i-1}` in the second stands for the number of the layer before.
    """

    layer: Layer
    indices: tuple[int, ...]
    reads: tuple[tuple[str, str], ...]


Item = Entry | Layer | Alike


@dataclass(frozen=True)
class _Form:
    """A layer without its number: a line for each entry, and the names of what it reads from outside."""

    lines: tuple[object, ...]
    reads: tuple[str, ...]


def fold(entries: Sequence[Entry], below: str = "") -> list[Item]:
    """The entries as a reader needs them: single ones, layers below the module `below`, and which are alike.

    A value of a layer that several others read is no part of it: it stands alone.
    """
    layer_of = _layers_of(entries, below)
    members: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        if entry.name in layer_of:
            members.setdefault(layer_of[entry.name], []).append(entry)
    layers = {key: Layer(*key, tuple(found)) for key, found in members.items()}
    forms = {key: _form(layer) for key, layer in layers.items()}
    alike = _alike(layers, forms, layer_of)
    return list(_in_order(entries, layer_of, layers, alike))


def _in_order(
    entries: Sequence[Entry],
    layer_of: Mapping[str, tuple[str, int]],
    layers: Mapping[tuple[str, int], Layer],
    alike: Mapping[tuple[str, int], Alike],
) -> Iterator[Item]:
    """Single entries where they are, and a layer where its computation begins: its weights come long before."""
    shown: set[object] = set()
    begins = {key: next((e for e in layer.entries if e.operation not in GIVEN), None) for key, layer in layers.items()}
    for entry in entries:
        key = layer_of.get(entry.name)
        if key is None:
            yield entry
            continue
        item = alike.get(key, layers[key])
        if begins[key] in (entry, None) and id(item) not in shown:
            shown.add(id(item))
            yield item


def _layers_of(entries: Sequence[Entry], below: str) -> dict[str, tuple[str, int]]:
    """The layer of each entry that belongs to one."""
    found = {entry.name: key for entry in entries if (key := _number(entry.module, below)) is not None}
    readers: dict[str, list[str]] = {}
    for entry in entries:
        for name, _ in entry.inputs:
            readers.setdefault(name, []).append(entry.name)
    shared: set[str] = set()
    for entry in reversed(entries):
        if entry.name not in found or entry.results:
            continue
        of_entry = readers.get(entry.name, [])
        others = {found[name] for name in of_entry if name in found} - {found[entry.name]}
        # What only shared values are computed from stands alone with them.
        if len(others) > 1 or (of_entry and shared.issuperset(of_entry)):
            shared.add(entry.name)
            del found[entry.name]
    return found


def _number(module: str, below: str) -> tuple[str, int] | None:
    """The first number in a path after `below`, and the path before it."""
    if below and module != below and not module.startswith(f"{below}."):
        return None
    parts = module.split(".")
    for position in range(len(below.split(".")) if below else 0, len(parts)):
        if parts[position].isdigit():
            return ".".join(parts[:position]), int(parts[position])
    return None


def _form(layer: Layer) -> _Form:
    own = {entry.name: f"#{index}" for index, entry in enumerate(layer.entries)}
    outside: dict[str, str] = {}

    def placed(name: str) -> str:
        return own.get(name) or outside.setdefault(name, f"${len(outside)}")

    lines: list[object] = []
    for entry in layer.entries:
        arguments = _NAME.sub(lambda found: placed(found.group(1)), entry.arguments)
        results = tuple(own.get(name, name) for name in entry.results)
        module, detail = (_without_number(text, layer) for text in (entry.module, entry.detail))
        lines.append((entry.operation, arguments, entry.types, results, module, detail, entry.pattern, entry.place))
    return _Form(tuple(lines), tuple(outside))


def _without_number(text: str, layer: Layer) -> str:
    return re.sub(rf"(?<![\w.]){re.escape(layer.module)}(?![\w])", f"{layer.path}.*", text)


def _alike(
    layers: Mapping[tuple[str, int], Layer],
    forms: Mapping[tuple[str, int], _Form],
    layer_of: Mapping[str, tuple[str, int]],
) -> dict[tuple[str, int], Alike]:
    firsts: dict[tuple[str, tuple[object, ...]], list[tuple[str, int]]] = {}
    groups: dict[tuple[tuple[str, int], tuple[tuple[str, str], ...]], list[int]] = {}
    for key in sorted(layers):
        shown = firsts.setdefault((key[0], forms[key].lines), [])
        for first in shown:
            reads = _reads(first, key, forms, layer_of)
            if reads is not None:
                groups.setdefault((first, reads), []).append(key[1])
                break
        else:
            shown.append(key)
    found: dict[tuple[str, int], Alike] = {}
    for (first, reads), indices in groups.items():
        alike = Alike(layers[first], tuple(indices), reads)
        found.update(((first[0], index), alike) for index in indices)
    return found


def _reads(
    first: tuple[str, int],
    other: tuple[str, int],
    forms: Mapping[tuple[str, int], _Form],
    layer_of: Mapping[str, tuple[str, int]],
) -> tuple[tuple[str, str], ...] | None:
    """What `other` reads instead of what `first` does; None unless all of it is of the layers before each."""
    pairs = []
    path, index = other
    for theirs, ours in zip(forms[first].reads, forms[other].reads, strict=True):
        if theirs == ours:
            continue
        from_before = layer_of.get(ours) == (path, index - 1)
        if not from_before or layer_of.get(theirs) not in (None, (path, first[1] - 1)):
            return None
        prefix = identifier(path).removesuffix("_")
        pairs.append((theirs, ours.replace(f"{prefix}_{index - 1}_", f"{prefix}_{{i-1}}_", 1)))
    # Two values of one must be two values of the other, which the forms already say.
    return tuple(pairs)


def numbers(indices: Sequence[int]) -> str:
    """1–15, or 2, 4, or 1–3, 7, 8."""
    return ", ".join(
        f"{first}–{last}" if last > first + 1 else ", ".join(map(str, range(first, last + 1)))
        for first, last in runs(indices)
    )
