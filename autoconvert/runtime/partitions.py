"""Partitions: which operations of a file the runtime's delegate for processors, XNNPACK, computes in one piece.

Only private functions of ai-edge-litert's interpreter tell (2.3.0), of the first subgraph of a file, and CompiledModel
has none that do. So each subgraph is put first in a copy of the file, and the copy is opened in a process of its own.
"""

import mmap
import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.system.remote import Died, remote

# Where these lists stand in the table of a model, and an entry of a list, as of its length.
_SUBGRAPHS, _SIGNATURES = 8, 18
_ENTRY = struct.Struct("<I")
_DELEGATE = "DELEGATE"
# Where a later version has other functions, or none.
_OTHERWISE = (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError)

# For each operation of a subgraph the number of the partition that it is in; None where it has a kernel of its own.
Partitions = Sequence[int | None]


def partitions_of(path: Path, subgraphs: Sequence[int]) -> dict[int, Partitions]:
    """The partitions of these subgraphs of a `.tflite`; what the runtime does not tell is left out.

    Needs room for a copy of the file in the folder of temporary files.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="autoconvert-", ignore_cleanup_errors=True) as folder:
        for index in subgraphs:
            try:
                copy = Path(folder) / "first.tflite"
                shutil.copyfile(path, copy)
                _put_first(copy, index)
                with remote(_Opened, str(copy)) as opened:
                    found[index] = in_partitions(*opened.call("nodes"))
            except (Died, *_OTHERWISE):
                continue
    return found


class _Opened:
    """A file in the interpreter, with its delegate."""

    def __init__(self, path: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter(model_path=path, num_threads=1)

    def nodes(self) -> tuple[int, list[Mapping[str, Any]]]:
        """How many operations the file has, and these and the delegate's with the numbers of their tensors."""
        count = len(self._interpreter._get_ops_details())
        self._interpreter._interpreter.AllocateTensors(0)
        details = self._interpreter._get_ops_details()
        return count, [
            {"name": each["op_name"], "inputs": list(each["inputs"]), "outputs": list(each["outputs"])}
            for each in details
        ]


def in_partitions(count: int, nodes: Sequence[Mapping[str, Any]]) -> Partitions:
    """Of `count` operations, before the delegate's, those that lie between what one of its nodes reads and gives."""
    maker = {output: index for index, node in enumerate(nodes[:count]) for output in node["outputs"]}
    found: list[int | None] = [None] * count
    delegated = [node for node in nodes[count:] if node["name"] == _DELEGATE]
    for number, node in enumerate(delegated):
        read = set(node["inputs"])
        pending = list(node["outputs"])
        while pending:
            tensor = pending.pop()
            index = None if tensor in read else maker.get(tensor)
            if index is not None and found[index] is None:
                found[index] = number
                pending.extend(nodes[index]["inputs"])
    return found


def in_words(found: Iterable[Partitions]) -> str:
    """What a delegate computes of several subgraphs."""
    parts = list(found)
    inside = [number for part in parts for number in part if number is not None]
    count = sum(len(set(part) - {None}) for part in parts)
    return f"XNNPACK computes {len(inside)} of {sum(map(len, parts))} operations, in {count} pieces"


def _put_first(path: Path, index: int) -> None:
    """Exchanges a subgraph with the first one, in place; signatures, which would name the wrong one, go.

    A list of tables holds how far each of them is from its entry (https://flatbuffers.dev/internals).
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        model = schema.Model.GetRootAs(data, 0)
        subgraphs, signatures = (model._tab.Vector(model._tab.Offset(field)) for field in (_SUBGRAPHS, _SIGNATURES))
        first, other = subgraphs, subgraphs + _ENTRY.size * index
        here, there = model._tab.Indirect(first), model._tab.Indirect(other)
        _ENTRY.pack_into(data, first, there - first)
        _ENTRY.pack_into(data, other, here - other)
        _ENTRY.pack_into(data, signatures - _ENTRY.size, 0)
