"""An entry: a node of a graph, or an operation of a file, as plain data that every form of a dump is written from."""

import keyword
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoconvert.dump.places import Place
    from autoconvert.ir.interface import Role

GIVEN = ("input", "constant")
_DTYPES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


@dataclass(frozen=True)
class Type:
    """What a value is: `dtype` "f32", "i64", "bool", or "size" for a number; sizes as text, `s` for the sequence."""

    dtype: str
    shape: tuple[str, ...] | None

    def __str__(self) -> str:
        return self.dtype if self.shape is None else f"{self.dtype}[{', '.join(self.shape)}]"


@dataclass(frozen=True)
class Entry:
    """A node: its arguments with other nodes by name, its values' types, and what is known about it.

    `module` is a path such as `model.layers.0.mlp`; `results` are the outputs of the program that it is. `detail`
    says what an input, a constant or a scan is. `error` is relative to the largest number, `size` the bytes
    of the model's weights that it reads; `node_name` is what the graph calls it; `role` is what an input is for.
    `place` is a line of the model's code, `written` that of the pattern from outside that made the node in its place.
    `kernel` is what computes an operation of a file, as far as the runtime tells.
    `origins` are the entries of the graph before that it was made from, where no name says so.
    """

    name: str
    operation: str
    module: str
    arguments: str
    inputs: tuple[tuple[str, int], ...]
    types: tuple[Type, ...]
    results: tuple[str, ...] = ()
    detail: str = ""
    place: "Place | None" = None
    written: "Place | None" = None
    pattern: str = ""
    block: str = ""
    error: float | None = None
    multiply_adds: int = 0
    size: int = 0
    node_name: str = ""
    role: "Role | None" = None
    kernel: str = ""
    origins: tuple[str, ...] = ()


def count_operations(entries: Iterable[Entry]) -> dict[str, int]:
    """How often each operation is computed."""
    return dict(sorted(Counter(entry.operation for entry in entries if entry.operation not in GIVEN).items()))


def short_dtype(name: str) -> str:
    """The name of a type of numbers, such as float32, as a dump has it: f32, bf16, i64, bool."""
    kind = name.rstrip("0123456789")
    return _DTYPES.get(kind, kind) + name[len(kind) :]


def identifier(text: str) -> str:
    """`text` as a Python identifier."""
    name = re.sub(r"\W", "_", text)
    return f"_{name}" if not name or name[0].isdigit() or keyword.iskeyword(name) else name
