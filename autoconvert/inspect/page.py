"""The page: the dump as compressed JSON between a stylesheet and scripts, one file that asks for no other."""

import base64
import dataclasses
import gzip
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from autoconvert.inspect.dump import Dump, Node
from autoconvert.report.progress import StageTime

# In this order: each uses only what stands before it, and the last starts the page.
SCRIPTS = (
    "data.js",
    "text.js",
    "difference.js",
    "folding.js",
    "elements.js",
    "measures.js",
    "strip.js",
    "graph.js",
    "code.js",
    "neighbourhood.js",
    "tried.js",
    "details.js",
    "weights.js",
    "checks.js",
    "search.js",
    "app.js",
)


def page(dump: Dump, stages: Sequence[StageTime] = ()) -> str:
    """The HTML text that shows `dump`; `stages` add times."""
    folder = files("autoconvert.inspect") / "page"
    content = json.dumps(page_data(dump, stages), ensure_ascii=False, separators=(",", ":")).encode()
    parts = {
        "title": html.escape(dump.model),
        "style": (folder / "page.css").read_text("utf-8"),
        "script": "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
        "data": base64.b64encode(gzip.compress(content, mtime=0)).decode(),
    }
    template = (folder / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def page_data(dump: Dump, stages: Sequence[StageTime] = ()) -> dict[str, Any]:
    """What the scripts get: every distinct node once, and each graph as numbers of nodes.

    A node that a pass leaves alone has the same number before and after it. `graph` and `before` of a pass are
    stems of graphs: what it made, and what it is compared with.
    """
    numbers: dict[Node, int] = {}
    graphs = {stem: [numbers.setdefault(node, len(numbers)) for node in nodes] for stem, nodes in dump.graphs.items()}
    return {
        "model": dump.model,
        "context": dump.context,
        "way": dump.way,
        "nodes": [[n.name, n.operation, n.module, n.inputs, dict(n.attributes), n.types] for n in numbers],
        "graphs": graphs,
        "passes": _passes(dump),
        "refused": dump.refused,
        "tried": dataclasses.asdict(dump.tried) if dump.tried else None,
        "checks": [dataclasses.asdict(check) for check in dump.checks],
        "bytes": [dataclasses.asdict(stored) for stored in dump.stored],
        "sources": dump.sources,
        "stages": [dataclasses.asdict(stage) for stage in stages],
    }


def _passes(dump: Dump) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(step), "graph": step.file or step.before} for step in dump.steps]
