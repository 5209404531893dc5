"""How the constants of a `.tflite` are stored, whoever made it, and what that may change in the logits."""

import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.errors import BROKEN, CheckFailed
from autoconvert.lowering.flatbuffer import FILE_IDENTIFIER, root_of
from autoconvert.quantization.recipe import Recipe
from autoconvert.quantization.recipes import RECIPES

_NAMES = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
# Whole numbers that are shapes, indices and tables; no weight is stored as one.
_PLAIN = frozenset({"float32", "int32", "int64", "uint32", "uint64", "bool", "string"})
_BYTES = {"float32": 4, "int32": 4, "uint32": 4, "float16": 2, "int16": 2, "int64": 8, "float64": 8}
_AGAIN = "Get the file again, or make it again."
# What rounds constants alike.
_RECIPES = {"float16": RECIPES["fp16"], "int8": RECIPES["int8"]}
# In σ, root mean square.
_ROUNDING = {"float16": RECIPES["fp16"].rounding, "int8": RECIPES["int8"].rounding, "int4": RECIPES["int4"].rounding}


@dataclass(frozen=True)
class Described:
    """`types` of constants that are no float32.

    `largest` are the bytes of the largest tensor that is computed: running takes no less memory.
    """

    types: tuple[str, ...]
    largest: int = 0

    @property
    def exact(self) -> bool:
        return not self.types

    @property
    def unknown(self) -> tuple[str, ...]:
        """Types of which nobody has said what their rounding explains."""
        return tuple(name for name in self.types if name not in _ROUNDING)

    @property
    def rounding(self) -> float:
        return max((_ROUNDING[name] for name in self.types if name in _ROUNDING), default=0.0)

    @property
    def recipe(self) -> Recipe | None:
        """What rounds as the coarsest of these types does; None where no recipe is known to."""
        coarsest = max(self.types, key=lambda name: _ROUNDING.get(name, inf), default="")
        return _RECIPES.get(coarsest)


def describe(path: Path) -> Described:
    """Reads the flatbuffer of a `.tflite`. Raises CheckFailed where it is none or is cut short."""
    with (
        _readable(path),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content[4:8] != FILE_IDENTIFIER:
            raise CheckFailed("this is no .tflite", hint=_AGAIN)
        model = root_of(content, len(content))
        _refuse_what_is_cut_short(model, len(content))
        subgraphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
        types = sorted({name for subgraph in subgraphs for name in _types_of(model, subgraph)} - _PLAIN)
        largest = max((size for subgraph in subgraphs for size in _sizes(model, subgraph)), default=0)
        return Described(tuple(types), largest)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Foreign bytes may lead a reader anywhere."""
    try:
        yield
    except BROKEN as error:
        raise CheckFailed(f"the flatbuffer is broken: {error}", hint=_AGAIN) from error


def _refuse_what_is_cut_short(model: Any, size: int) -> None:
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        # Offsets 0 and 1 say that the data lies in the flatbuffer itself.
        if buffer.Offset() > 1 and buffer.Offset() + buffer.Size() > size:
            needed = buffer.Offset() + buffer.Size()
            raise CheckFailed(f"it is cut short: {size} bytes, and {needed} are needed", hint=_AGAIN)
        if buffer.DataLength() > size:
            raise CheckFailed(f"it is cut short at {size} bytes", hint=_AGAIN)


def _sizes(model: Any, subgraph: Any) -> Iterator[int]:
    """The bytes of each tensor of a subgraph that is no constant."""
    for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
        if not _is_constant(model, tensor):
            entries = prod(max(tensor.Shape(axis), 1) for axis in range(tensor.ShapeLength()))
            yield entries * _BYTES.get(_NAMES.get(tensor.Type(), ""), 1)


def _is_constant(model: Any, tensor: Any) -> bool:
    buffer = model.Buffers(tensor.Buffer())
    return bool(buffer.DataLength() or buffer.Offset() > 1 or tensor.ExternalBuffer())


def _types_of(model: Any, subgraph: Any) -> Iterable[str]:
    """Types of the constants of a subgraph that hold more than one number."""
    for index in range(subgraph.TensorsLength()):
        tensor = subgraph.Tensors(index)
        shape = [tensor.Shape(axis) for axis in range(tensor.ShapeLength())]
        if _is_constant(model, tensor) and prod(shape) > 1:
            yield _NAMES.get(tensor.Type(), f"type {tensor.Type()}")
