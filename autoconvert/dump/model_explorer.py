"""Graph JSON of Model Explorer: nodes by module, their values, and what is known about each."""

import json
from collections.abc import Iterable
from typing import Any

from autoconvert.dump.entry import Entry, Type


def graph_json(name: str, entries: Iterable[Entry]) -> str:
    """The text of a file that holds one graph called `name`."""
    nodes = [node_data(entry) for entry in entries]
    # Without a label Model Explorer says that it does not know the format.
    content = {"label": name, "graphs": [{"id": name, "nodes": nodes}]}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def node_data(entry: Entry) -> dict[str, Any]:
    """A node of such a graph."""
    return {
        "id": entry.name,
        "label": entry.operation,
        "namespace": entry.module.replace(".", "/"),
        "incomingEdges": [
            {"sourceNodeId": source, "sourceNodeOutputId": str(output), "targetNodeInputId": str(index)}
            for index, (source, output) in enumerate(entry.inputs)
        ],
        "attrs": [{"key": key, "value": value} for key, value in attributes(entry).items()],
        "outputsMetadata": [
            {"id": str(index), "attrs": [{"key": "tensor_shape", "value": str(value)}]}
            for index, value in enumerate(entry.types)
        ],
    }


def attributes(entry: Entry) -> dict[str, str]:
    """What is known about a node, as text by key; what is not known is left out."""
    first = entry.types[0] if len(entry.types) == 1 else Type("", None)
    known = {
        "shape": f"[{', '.join(first.shape)}]" if first.shape is not None else "",
        "dtype": first.dtype,
        "arguments": entry.arguments,
        "result": ", ".join(entry.results),
        "detail": entry.detail,
        "source": str(entry.place) if entry.place else "",
        "written": str(entry.written) if entry.written else "",
        "pattern": entry.pattern,
        "block": entry.block,
        "multiply-adds": str(entry.multiply_adds) if entry.multiply_adds else "",
        "bytes": str(entry.size) if entry.size else "",
        "error": f"{entry.error:.1e}" if entry.error is not None else "",
        "computed by": entry.kernel,
        "origins": " ".join(entry.origins),
    }
    return {key: value for key, value in known.items() if value}
