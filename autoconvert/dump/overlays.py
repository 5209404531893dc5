"""Overlays for Model Explorer: one figure of every node, in all graphs, coloured from the least to the most.

The format is that of its `node_data_builder.ModelNodeData`.
"""

import json
from collections.abc import Callable, Iterable, Mapping

from autoconvert.dump.entry import Entry

FIGURES: dict[str, Callable[[Entry], float | None]] = {
    "bytes": lambda entry: entry.size or None,
    "error": lambda entry: entry.error,
    "multiply-adds": lambda entry: entry.multiply_adds or None,
}
_GRADIENT = [{"stop": 0, "bgColor": "#fff3d6"}, {"stop": 1, "bgColor": "#f08c2e"}]


def figure_of(entries: Iterable[Entry], figure: str) -> dict[str, float]:
    """One of FIGURES by the name of the node, for those nodes that have it."""
    values = ((entry.name, FIGURES[figure](entry)) for entry in entries)
    return {name: value for name, value in values if value is not None}


def overlay(figure: str, graphs: Mapping[str, Mapping[str, float]]) -> str:
    """The text of a file with the values of a figure by node and by graph."""
    data = {
        graph: {
            "name": figure,
            "results": {name: {"value": value} for name, value in values.items()},
            "gradient": _GRADIENT,
        }
        for graph, values in graphs.items()
        if values
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
