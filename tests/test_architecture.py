"""Imports go down the list of rooms, never up, and form no cycle; few files lie outside a room."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest

import autoconvert

# From the ground up: a room imports from itself and from those before it.
ROOMS = (
    "errors",
    "system",
    "ops",
    "ir",
    "scan",
    "source",
    "analysis",
    "rewrite",
    "patterns",
    "tracing",
    "passes",
    "quantization",
    "lowering",
    "packaging",
    "runtime",
    "check",
    "report",
    "dump",
    "inspect",
    "driver",
    "diagnose",
    "cli",
)
# The package's face: what it exports, and what files of patterns and their tests import.
FACE = {"__init__", "__main__", "pattern", "testing"}

PACKAGE = Path(autoconvert.__file__).parent
MODULES = {
    ".".join(("autoconvert", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
    for folder in (PACKAGE, *(PACKAGE / name for name in ("passes", "patterns", "lowering")))
    for file in sorted(folder.rglob("*.py"))
}


def room(module: str) -> str:
    return (*module.split(".")[1:], "__init__")[0]


def imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in it; names that only types need too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


EDGES = {(module, imported) for module in MODULES for imported in imports(module)}


def test_every_module_is_in_a_room_or_is_the_packages_face() -> None:
    assert {room(module) for module in MODULES} - FACE == set(ROOMS)


@pytest.mark.parametrize("upper", ROOMS)
def test_a_room_imports_nothing_from_a_room_above_it(upper: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(upper) + 1]}
    up = sorted(f"{a} imports {b}" for a, b in EDGES if room(a) == upper and room(b) not in allowed)
    assert not up


def test_no_import_runs_in_a_circle() -> None:
    graph = nx.DiGraph([(a, b) for a, b in EDGES if b != "autoconvert"])
    circle = next(iter(nx.simple_cycles(graph)), None)
    assert circle is None, " → ".join(a for a, _ in pairwise([*circle, circle[0]]))
