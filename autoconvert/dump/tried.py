"""Which patterns were tried on the nodes of a graph, and how far each got."""

from collections.abc import Iterable
from typing import Any

from autoconvert.dump.places import without_paths
from autoconvert.dump.snapshot import Snapshot
from autoconvert.passes.fuse import tries
from autoconvert.rewrite.pattern import Pattern


def tried(stem: str | None, snapshot: Snapshot, patterns: Iterable[Pattern]) -> dict[str, Any]:
    """What is said of the graph of a `snapshot`, whose file is `stem`; nodes are called as its entries are.

    `endings` are the patterns that were tried at each operation, since it is their last one. `tries` are those that
    went further: `covered` are the nodes that matched, and `differs` is the first that did not, or "".
    """
    names = {entry.node_name: entry.name for entry in snapshot.entries}
    operations = {entry.node_name: entry.operation for entry in snapshot.entries}
    endings: dict[str, dict[str, None]] = {}
    further = []
    for miss in tries(snapshot.program.graph.graph, patterns):
        endings.setdefault(operations[miss.node], {})[miss.pattern] = None
        if miss.is_begun:
            further.append(
                {
                    "pattern": miss.pattern,
                    "node": names[miss.node],
                    "matched": miss.matched,
                    "of": miss.of,
                    "reason": without_paths(miss.reason),
                    "differs": names.get(miss.differs, ""),
                    "covered": [names[name] for name in miss.covered],
                }
            )
    return {"graph": stem, "endings": {name: list(found) for name, found in sorted(endings.items())}, "tries": further}
