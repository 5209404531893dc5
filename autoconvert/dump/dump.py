"""The dump of a conversion: a snapshot after each pass, and `dump.json`, which says what there is."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor
from torch._ops import OpOverload

from autoconvert.dump.code import CONSTANTS, code
from autoconvert.dump.entry import Entry, count_operations
from autoconvert.dump.flatbuffer import graphs_of
from autoconvert.dump.graphml import graphml
from autoconvert.dump.manifest import FORMAT, MANIFEST, PAGE, TRIED, overlay_file
from autoconvert.dump.model_explorer import graph_json
from autoconvert.dump.origins import decomposed, lowered_from
from autoconvert.dump.overlays import FIGURES, figure_of, overlay
from autoconvert.dump.places import Place, excerpts, without_paths
from autoconvert.dump.snapshot import Photographer, Snapshot
from autoconvert.dump.text import text
from autoconvert.dump.tried import tried
from autoconvert.errors import AutoconvertError, InputError, Refused
from autoconvert.ir.program import Program
from autoconvert.lowering.link import LinkedTensor
from autoconvert.lowering.provenance import node_names
from autoconvert.ops.semantic import Body
from autoconvert.report.check_result import CheckResult
from autoconvert.rewrite.pass_manager import run_name
from autoconvert.rewrite.pattern import Pattern, operations_of
from autoconvert.runtime.partitions import Partitions
from autoconvert.system.output import output_folder

TRACE = "trace"

_SPECIALIZED = "What the signature calls, every size a number."
_LEGALIZED = "Operations that the target has no kernel for become operations that it has."
_WRITTEN = "The operations of the file, as the converter and the linker wrote them."

_OTHERS = (CONSTANTS, PAGE, TRIED, *map(overlay_file, FIGURES))
_FILE = re.compile("|".join((r"\d\d-.+\.(txt|py|graphml|json)", *map(re.escape, _OTHERS))))


@dataclass(frozen=True)
class _Step:
    """What is lowered of a signature: the stem of its graph, and its entries by what a file calls their nodes."""

    stem: str | None
    nodes: Mapping[str, Entry]


@dataclass
class Dump:
    """Writes into `folder` as a conversion goes on; `sizes` are the bytes of the model's tensors by name.

    `errors` are those of replaced regions by the name of their last node, filled by who measures them.
    """

    folder: Path
    model: str
    sizes: Mapping[str, int]
    patterns: Mapping[str, Pattern]
    errors: dict[str, float] = field(default_factory=dict)
    context: int = 0
    way: str = ""
    passes: list[dict[str, Any]] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    stored: list[dict[str, Any]] = field(default_factory=list)
    _runs: Counter[str] = field(default_factory=Counter)
    _places: set[Place] = field(default_factory=set)
    _files: list[Path] = field(default_factory=list)
    _constants: dict[str, Tensor] = field(default_factory=dict)
    _tried: dict[str, Any] = field(default_factory=dict)
    _figures: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    _last: Snapshot | None = None
    _stem: str | None = None
    _refused: Entry | None = None
    _signatures: dict[str, _Step] = field(default_factory=dict)

    def traced(self, way: str, context: int, program: Program) -> None:
        """A new trace: what another way left is gone."""
        for file in self._files:
            file.unlink()
        self.way, self.context, self.passes, self._files = way, context, [], []
        self._last = self._stem = None
        self._signatures.clear()
        self._runs.clear()
        self._places.clear()
        self._constants.clear()
        self._tried = {}
        self._figures = {figure: {} for figure in FIGURES}
        self._take = Photographer(self.sizes, self.errors)
        self.after(TRACE, program, "The operations of PyTorch that the model's own code calls.")

    def after(self, name: str, program: Program, summary: str = "") -> None:
        """What the pass `name` made, whose `summary` says what it does; files are written where it changed something.

        What runs again has another name, as in `canonicalize-2`.
        """
        name, snapshot = self._run(name), self._take(program)
        last, before = self._last, self._stem
        self._last = snapshot
        if last is None or _lines(last.entries) != _lines(snapshot.entries):
            self._stem = self._stem_of(name)
            self._write_graph(self._stem, snapshot.entries, code(self._stem, snapshot, self._constants, self._bodies))
        if last is not None and program.fusion is not last.program.fusion:
            self._tried = tried(self._stem, snapshot, self.patterns.values())
        stem = self._stem if self._stem != before else None
        matches = self._matches(last, snapshot)
        blocks = program.fusion.blocks
        self._add(name, snapshot.entries, stem, before, summary=summary, blocks=blocks, matches=matches)

    def specialized(self, name: str, part: Program, legal: Program | None = None) -> None:
        """What the signature `name` calls, with numbers for sizes, and where it is lowered, in the target's words."""
        snapshot = self._of_signature(name, name, part, _SPECIALIZED, self._stem)
        if legal is None:
            return
        before = self.passes[-1]["file"]
        lowered = self._of_signature(name, f"{name} legalized", legal, _LEGALIZED, before, snapshot)
        called = {node.name: told for node, told in node_names(legal.graph.graph).items()}
        nodes = {called[entry.node_name]: entry for entry in lowered.entries}
        self._signatures[name] = _Step(self.passes[-1]["file"], nodes)

    def _of_signature(
        self, name: str, run: str, program: Program, summary: str, before: str | None, last: Snapshot | None = None
    ) -> Snapshot:
        """Writes a graph of a signature; `last` is the one that it was decomposed from."""
        step, snapshot = self._run(run), self._take(program)
        stem, blocks = self._stem_of(step), program.fusion.blocks
        entries = snapshot.entries if last is None else decomposed(last, snapshot)
        self._write_graph(stem, entries, code(stem, snapshot, self._constants, self._bodies))
        self._add(step, entries, stem, before, summary=summary, signature=name, blocks=blocks)
        return snapshot

    def withdrawn(self) -> None:
        """The signatures so far are not what becomes a file: others take their place."""
        for step in [each for each in self.passes if each["signature"]]:
            self.passes.remove(step)
            self._runs[step["name"]] = 0
            for file in [each for each in self._files if each.stem == step["file"]]:
                self._files.remove(file)
                file.unlink()
            for graphs in self._figures.values():
                graphs.pop(step["file"], None)
        self._signatures.clear()

    def written(self, model: Any, partitions: Mapping[int, Partitions]) -> None:
        """What a file runs, a `ModelT`: each operation with the node that it was made from, and what computes it."""
        for graph in graphs_of(model, partitions):
            lowered = self._signatures.get(graph.name, _Step(None, {}))
            entries = [lowered_from(entry, lowered.nodes) for entry in graph.entries]
            step = self._run(f"{graph.name} in the file")
            stem = self._stem_of(step)
            self._write_graph(stem, entries)
            self._add(step, entries, stem, lowered.stem, summary=_WRITTEN, signature=graph.name)

    def _run(self, name: str) -> str:
        self._runs[name] += 1
        return run_name(name, self._runs[name])

    @cached_property
    def _bodies(self) -> dict[OpOverload, Body]:
        """What operations that patterns bring compute."""
        return {each.overload: each.device for each in operations_of(self.patterns.values())}

    def _stem_of(self, name: str) -> str:
        return f"{len(self.passes):02}-{re.sub(r'[^a-z0-9_]+', '-', name.lower())}"

    def _write_graph(self, stem: str, entries: Sequence[Entry], program: str | None = None) -> None:
        """Writes every form of a graph; `program` is its Python code, where it has one."""
        self._write(f"{stem}.txt", text(stem, entries))
        if program is not None:
            self._write(f"{stem}.py", program)
        self._write(f"{stem}.graphml", graphml(stem, entries))
        self._write(f"{stem}.json", graph_json(stem, entries))
        for figure, graphs in self._figures.items():
            graphs[stem] = figure_of(entries, figure)
        self._places.update(place for entry in entries for place in (entry.place, entry.written) if place)

    def _add(
        self,
        name: str,
        entries: Sequence[Entry],
        stem: str | None,
        before: str | None,
        *,
        summary: str = "",
        signature: str = "",
        blocks: Mapping[str, int] | None = None,
        matches: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`stem` has the graph, None where nothing changed; `before` is the stem of what it is compared with."""
        self.passes.append(
            {
                "index": len(self.passes),
                "name": name,
                "summary": summary,
                "signature": signature,
                "file": stem,
                "before": before,
                "nodes": len(entries),
                "operations": count_operations(entries),
                "blocks": dict(blocks or {}),
                "matches": list(matches),
            }
        )

    def refused(self, error: AutoconvertError) -> None:
        """Where a conversion ended."""
        at = f"after {self.passes[-1]['name']}" if self.passes else TRACE
        self.checks.append(CheckResult(at, False, "\n".join(filter(None, (error.message, error.hint)))))
        self._refused = self._entry_at(error) if isinstance(error, Refused) else None

    def _entry_at(self, error: Refused) -> Entry | None:
        """The node that was refused in the last graph, or the first that reads it: the one whose line was told."""
        entries = self._last.entries if self._last else ()
        named = [entry for entry in entries if entry.node_name == error.at]
        readers = [e for e in entries if any(source == entry.name for entry in named for source, _ in e.inputs)]
        told = (e for e in (*named, *readers) if e.place and re.search(_line_of(e.place), error.message))
        return next(told, None)

    def linked(self, tensors: tuple[LinkedTensor, ...]) -> None:
        """How the weights are stored in the end."""
        found: dict[tuple[str, str], int] = {}
        for tensor in tensors:
            module = tensor.sources[0].rpartition(".")[0]
            found[module, tensor.dtype] = found.get((module, tensor.dtype), 0) + tensor.size
        self.stored = [{"module": module, "dtype": dtype, "bytes": size} for (module, dtype), size in found.items()]

    def finish(self) -> dict[str, Path]:
        """Writes the manifest; gives every file by its name, the manifest last."""
        manifest = {
            "format": FORMAT,
            "model": self.model,
            "context": self.context,
            "way": self.way,
            "passes": self.passes,
            "refused": {"file": self._stem, "node": self._refused.name} if self._refused else None,
            "checks": [
                {"name": check.name, "passed": check.passed, "detail": without_paths(check.detail)}
                for check in self.checks
            ],
            "bytes": self.stored,
            "sources": excerpts(self._places | {_place(pattern) for pattern in self._used()}),
        }
        if self._constants:
            self._files.append(self.folder / CONSTANTS)
            self._files[-1].write_bytes(save(self._constants))
        for figure, graphs in self._figures.items():
            self._write(overlay_file(figure), overlay(figure, graphs))
        self._write(TRIED, json.dumps(self._tried, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._write(MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
        return {file.name: file for file in self._files}

    def _write(self, name: str, content: str) -> None:
        self._files.append(self.folder / name)
        self._files[-1].write_text(content, encoding="utf-8")

    def _matches(self, last: Snapshot | None, snapshot: Snapshot) -> list[dict[str, Any]]:
        """The blocks that this pass has found, each with the names that its nodes have in the last snapshot."""
        if last is None or last.program.fusion.found or not snapshot.program.fusion.found:
            return []
        before = {entry.node_name: entry.name for entry in last.entries}
        after = {entry.node_name: entry.name for entry in snapshot.entries}
        return [
            {
                "pattern": found.pattern,
                "block": found.block,
                "source": str(_place(self.patterns[found.pattern])),
                "node": after.get(found.node, ""),
                "replaced": [before[name] for name in found.replaced if name in before],
            }
            for found in snapshot.program.fusion.found
        ]

    def _used(self) -> list[Pattern]:
        names = {match["pattern"] for each in self.passes for match in each["matches"]}
        return [pattern for name, pattern in self.patterns.items() if name in names]


def _place(pattern: Pattern) -> Place:
    file, _, line = pattern.source.rpartition(":")
    return Place(file, int(line))


def _line_of(place: Place) -> str:
    """An expression that finds the line in a message."""
    return rf"{re.escape(place.short)}\b"


def _lines(entries: Sequence[Entry]) -> list[object]:
    return [(e.name, e.arguments, e.types, e.results, e.detail, e.pattern) for e in entries]


@contextmanager
def dump_to(folder: Path, model: str, sizes: Mapping[str, int], patterns: Mapping[str, Pattern]) -> Iterator[Dump]:
    """A dump that lies in `folder` when the block ends, be it with a failure; an older dump there is replaced.

    Raises:
        InputError: `folder` holds other things than a dump.
        MachineError: it cannot be made or written to.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise InputError(f"{folder} is not empty and holds no dump.", hint="Name a new folder after --dump.")
    with output_folder(folder, "--dump") as (temporary, publish):
        dump = Dump(temporary, model, sizes, patterns)
        try:
            yield dump
        except AutoconvertError as error:
            dump.refused(error)
            raise
        finally:
            files = dump.finish()
            for old in folder.iterdir():
                if _FILE.fullmatch(old.name) and old.name not in files:
                    old.unlink()
            publish(files)
