"""The text of a graph: a line a node, in the graph's order, identical layers folded; made to be compared."""

from collections.abc import Iterator, Sequence

from autoconvert.dump.entry import Entry
from autoconvert.dump.folding import Alike, Item, Layer, fold, numbers
from autoconvert.dump.wrapping import wrapped


def text(name: str, entries: Sequence[Entry]) -> str:
    """`%name = operation(arguments) : type → result  # file:line  pattern` for each node, its module before."""
    return "".join(f"{line}\n" for line in [f"# {name}", "", *_lines(fold(entries))])


def _lines(items: Sequence[Item], indent: str = "") -> Iterator[str]:
    module = ""
    for item in items:
        if isinstance(item, Entry):
            if item.module != module:
                module = item.module
                yield f"{indent}# {_path(module) or 'of no module'}"
            yield line(item, indent)
        elif isinstance(item, Layer):
            yield f"{indent}{_path(item.module)}:"
            yield from _lines(fold(item.entries, item.module), f"{indent}  ")
        else:
            yield from (indent + each for each in _alike(item))


def line(entry: Entry, indent: str = "") -> str:
    """One node, its provenance after the sign of a comment; several lines where it is long."""
    types = ", ".join(map(str, entry.types))
    parts = [f"%{entry.name} = {entry.operation}({entry.arguments})"]
    parts += [f" : {types}"] if types else []
    parts += [f" → {', '.join(entry.results)}"] if entry.results else []
    origin = [
        entry.place.short if entry.place else "",
        f"by {entry.written.short}" if entry.written else "",
        entry.detail,
        f"[{entry.pattern}]" if entry.pattern else "",
        entry.kernel,
        f"of {', '.join(f'%{name}' for name in entry.origins)}" if entry.origins else "",
    ]
    told = "  ".join(filter(None, origin))
    return wrapped("".join(parts), f"# {told}" if told else "", indent)


def _alike(alike: Alike) -> Iterator[str]:
    several = "s" if len(alike.indices) > 1 else ""
    yield f"{_path(alike.layer.path)}: layer{several} {numbers(alike.indices)} like layer {alike.layer.index}"
    for theirs, ours in alike.reads:
        yield f"  %{ours} where that reads %{theirs}"


def _path(module: str) -> str:
    return module.replace(".", "/")
