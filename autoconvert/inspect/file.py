"""A file that a device runs, as what the page shows: a step for each signature and each subgraph that one calls."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoconvert.dump.entry import count_operations
from autoconvert.dump.flatbuffer import FileGraph, graphs_of
from autoconvert.dump.model_explorer import node_data
from autoconvert.errors import BROKEN, InputError
from autoconvert.inspect.dump import Dump, Node, Step, Stored, node_of
from autoconvert.lowering.flatbuffer import mapped_model
from autoconvert.packaging.litertlm import MAGIC, read_sections


def read_file(path: Path) -> Dump:
    """What a `.tflite` runs, or each model of a `.litertlm`, whoever wrote it.

    Raises:
        InputError: it is neither, or damaged.
    """
    steps: list[Step] = []
    graphs: dict[str, tuple[Node, ...]] = {}
    stored: Counter[tuple[str, str]] = Counter()
    for kind, model in _models(path):
        try:
            found = list(graphs_of(model))
        except BROKEN as error:
            raise InputError(f"{path} is damaged: {error}", hint="Make or fetch the file again.") from error
        for graph in found:
            name = f"{kind} {graph.name}".strip()
            while name in graphs:
                name += "'"
            graphs[name] = tuple(node_of(node_data(entry)) for entry in graph.entries)
            operations = count_operations(graph.entries)
            signature = name if graph.is_signature else ""
            steps.append(Step(name, "", signature, name, None, len(graph.entries), operations, {}, ()))
        stored.update(_bytes(found))
    held = tuple(Stored(module, dtype, size) for (module, dtype), size in stored.items())
    return Dump(path.name, 0, "", tuple(steps), graphs, (), held, {})


def _models(path: Path) -> Iterator[tuple[str, Any]]:
    """The models of a file, each with what it is called where there are several."""
    if not path.is_file():
        raise InputError(f"{path}: missing", hint="Give a .tflite, a .litertlm, or a folder that --dump wrote.")
    with path.open("rb") as file:
        is_bundle = file.read(len(MAGIC)) == MAGIC
    if not is_bundle:
        yield "", mapped_model(path)
        return
    sections = [section for section in read_sections(path) if section.kind == "TFLiteModel"]
    for section in sections:
        yield section.model if len(sections) > 1 else "", mapped_model(path, section.begin)


def _bytes(graphs: list[FileGraph]) -> Counter[tuple[str, str]]:
    """The bytes of what a model holds by module and type; what several subgraphs read is held once."""
    held = {each.buffer: each for graph in graphs for each in graph.held}
    found: Counter[tuple[str, str]] = Counter()
    for each in held.values():
        found[each.module, each.dtype] += each.size
    return found
