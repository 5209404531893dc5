"""A dump as it is read from its folder: the passes, the graph after each that changed something, and what was found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoconvert.dump.manifest import FORMAT, MANIFEST, TRIED
from autoconvert.errors import InputError
from autoconvert.ir.fusion import NearMiss
from autoconvert.report.check_result import CheckResult

_AGAIN = "Write the dump again: autoconvert MODEL --dump DIR."


@dataclass(frozen=True)
class Node:
    """An operation: `inputs` are the names of the nodes that it reads, each with the number of the output.

    `attributes` are texts by key (`shape`, `dtype`, `source`, …), `types` those of its outputs.
    """

    name: str
    operation: str
    module: str
    inputs: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, str], ...]
    types: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A block that was fused: `node` stands after the pass for what was `replaced` before it."""

    pattern: str
    block: str
    source: str
    node: str
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """The graph after a pass; `file` is the stem of its files, None where the pass changed nothing.

    It is compared with that of the stem `before`, where there is one. `summary` says what the pass does, `signature`
    whose graph it is: "" of all.
    """

    name: str
    summary: str
    signature: str
    file: str | None
    before: str | None
    nodes: int
    operations: dict[str, int]
    blocks: dict[str, int]
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Stored:
    """Bytes of a module's weights in the file, of one dtype."""

    module: str
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Tried:
    """Which patterns were tried on the `graph` of a stem: `endings` by the operation that is their last."""

    graph: str
    endings: dict[str, tuple[str, ...]]
    tries: tuple[NearMiss, ...]


@dataclass(frozen=True)
class Dump:
    """`graphs` by the stem of their file; `sources` are pieces (number of the first line, text) by relative file.

    `refused` is the node at which a conversion ended: the stem of its graph, and its name.
    """

    model: str
    context: int
    way: str
    steps: tuple[Step, ...]
    graphs: dict[str, tuple[Node, ...]]
    checks: tuple[CheckResult, ...]
    stored: tuple[Stored, ...]
    sources: dict[str, tuple[tuple[int, str], ...]]
    refused: tuple[str, str] | None = None
    tried: Tried | None = None


def read_dump(folder: Path) -> Dump:
    """Reads the dump in `folder`.

    Raises:
        InputError: there is none, its format is another, or a file of it is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} holds no dump: {MANIFEST} is missing.", hint=_AGAIN)
    manifest = _read_json(path)
    found = manifest.get("format")
    if found != FORMAT:
        raise InputError(f"{path} has the format {found}, this version of autoconvert reads {FORMAT}.", hint=_AGAIN)
    try:
        steps = tuple(_step(step) for step in manifest["passes"])
        return Dump(
            model=str(manifest["model"]),
            context=int(manifest["context"]),
            way=str(manifest["way"]),
            steps=steps,
            graphs={step.file: _read_graph(folder / f"{step.file}.json") for step in steps if step.file},
            checks=tuple(CheckResult(c["name"], bool(c["passed"]), c["detail"]) for c in manifest["checks"]),
            stored=tuple(Stored(s["module"], s["dtype"], int(s["bytes"])) for s in manifest["bytes"]),
            sources={
                file: tuple((int(line), str(text)) for line, text in pieces)
                for file, pieces in manifest["sources"].items()
            },
            refused=_refused(manifest["refused"]),
            tried=_tried(folder / TRIED),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def _refused(refused: Mapping[str, Any] | None) -> tuple[str, str] | None:
    return (str(refused["file"]), str(refused["node"])) if refused else None


def _tried(path: Path) -> Tried | None:
    """What was tried; None where a conversion ended before that."""
    if not (tried := _read_json(path)):
        return None
    try:
        return Tried(
            graph=str(tried["graph"]),
            endings={operation: tuple(map(str, names)) for operation, names in tried["endings"].items()},
            tries=tuple(map(_try, tried["tries"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def _try(each: Mapping[str, Any]) -> NearMiss:
    return NearMiss(
        pattern=str(each["pattern"]),
        node=str(each["node"]),
        matched=int(each["matched"]),
        of=int(each["of"]),
        reason=str(each["reason"]),
        differs=str(each["differs"]),
        covered=tuple(map(str, each["covered"])),
    )


def _step(step: Mapping[str, Any]) -> Step:
    return Step(
        name=str(step["name"]),
        summary=str(step["summary"]),
        signature=str(step["signature"]),
        file=_stem(step["file"]),
        before=_stem(step["before"]),
        nodes=int(step["nodes"]),
        operations=_counts(step["operations"]),
        blocks=_counts(step["blocks"]),
        matches=tuple(
            Match(m["pattern"], m["block"], m["source"], m["node"], tuple(m["replaced"])) for m in step["matches"]
        ),
    )


def _stem(file: str | None) -> str | None:
    """A name in the dump's own folder."""
    if file is not None and Path(file).name != file:
        raise ValueError(f"{file!r} is not the name of a file")
    return file


def _counts(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items()}


def _read_graph(path: Path) -> tuple[Node, ...]:
    content = _read_json(path)
    try:
        return tuple(map(node_of, content["graphs"][0]["nodes"]))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, error) from error


def node_of(node: Mapping[str, Any]) -> Node:
    """A node as Model Explorer's graphs have it."""
    return Node(
        name=node["id"],
        operation=node["label"],
        module=node["namespace"],
        inputs=tuple((edge["sourceNodeId"], edge.get("sourceNodeOutputId", "0")) for edge in node["incomingEdges"]),
        attributes=tuple((attribute["key"], str(attribute["value"])) for attribute in node["attrs"]),
        types=tuple(_type(output) for output in node.get("outputsMetadata", ())),
    )


def _type(output: Mapping[str, Any]) -> str:
    return next((str(a["value"]) for a in output["attrs"] if a["key"] == "tensor_shape"), "")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"The dump is incomplete: {path} is missing.", hint=_AGAIN)
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, TypeError("not a JSON object"))
    return content


def _damaged(path: Path, error: Exception) -> InputError:
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return InputError(f"{path} is damaged: {what}.", hint=_AGAIN)
