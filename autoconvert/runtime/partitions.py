"""Partitions: which operations of a file the runtime's delegate for processors, XNNPACK, computes in one piece.

Only private functions of ai-edge-litert's interpreter tell (2.3.0), of the first subgraph of a file, and CompiledModel
has none that do. So each subgraph is put first for a while in a copy of the file, which a process of its own opens.
"""

import mmap
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.system.remote import Died, remote

# Where these lists stand in the table of a model, and an entry of a list, as of its length.
_SUBGRAPHS, _SIGNATURES = 8, 18
_ENTRY = struct.Struct("<I")
_DELEGATE = "DELEGATE"
# Where a file does not open, or a later version has other functions, or none.
_NOT_TOLD = (Died, AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError)

# For each operation of a subgraph the number of the partition that it is in; None where it has a kernel of its own.
Partitions = Sequence[int | None]


def partitions_of(path: Path, subgraphs: Sequence[int]) -> dict[int, Partitions]:
    """The partitions of these subgraphs of a `.tflite`; what the runtime does not tell is left out.

    Needs room for a copy of the file in the folder of temporary files.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="autoconvert-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "first.tflite"
        with suppress(*_NOT_TOLD):
            shutil.copyfile(path, copy)
        for index in subgraphs:
            with suppress(*_NOT_TOLD), _first(copy, index), remote(_Opened, str(copy)) as opened:
                found[index] = in_partitions(*opened.call("nodes"))
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


@contextmanager
def _first(path: Path, index: int) -> Iterator[None]:
    """A subgraph has the place of the first one, in the file itself, for so long; signatures go."""
    _exchange_with_first(path, index)
    try:
        yield
    finally:
        _exchange_with_first(path, index)


def _exchange_with_first(path: Path, index: int) -> None:
    """Exchanges two subgraphs in the file; signatures, which would name the wrong one, are left out of its list.

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
