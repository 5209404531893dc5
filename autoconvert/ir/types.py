"""Types of values: what a node's value is, without the value."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import sympy
import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class TensorType:
    """A tensor's element type and sizes; a size that is not known yet is an expression over symbols."""

    dtype: torch.dtype
    sizes: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.sizes))}]"


@dataclass(frozen=True)
class SizeType:
    """A size, or what is computed from sizes, that is not known yet."""

    expression: Any

    def __str__(self) -> str:
        return f"the size {self.expression}"


@dataclass(frozen=True)
class Known:
    """What is no tensor, and known: 1, 1.0 and True are three."""

    kind: type
    value: Any

    def __str__(self) -> str:
        return repr(self.value)


# Of several results a tuple.
Type = TensorType | SizeType | Known | tuple["Type", ...]

# The types of what a graph, whose results are a tuple, gives of inputs of these types.
Infer = Callable[[fx.GraphModule, Sequence[TensorType]], Sequence[TensorType]]


@runtime_checkable
class Typed(Protocol):
    """A module that a graph may call: it says of what types its results are for operands of these types.

    Every size is a number; ValueError says what does not fit.
    """

    def types(self, inputs: Sequence[TensorType], infer: Infer) -> tuple[TensorType, ...]: ...


def type_of(value: Any) -> Type:
    """The type of a value, equal for values that no operation could tell apart."""
    if isinstance(value, Tensor):
        return TensorType(value.dtype, tuple([_size(size) for size in value.shape]))
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        expression = _expression(value)
        return Known(int, expression) if isinstance(expression, int) else SizeType(expression)
    if isinstance(value, list | tuple):
        return tuple([type_of(part) for part in value])
    return Known(type(value), value)


def type_text(kind: Type) -> str:
    """The type as messages write it."""
    return f"({', '.join(map(type_text, kind))})" if isinstance(kind, tuple) else str(kind)


def expressions_in(value: Any) -> Iterator[sympy.Basic]:
    """What is no number among the sizes of a type, or of types in tuples."""
    if isinstance(value, sympy.Basic):
        yield value
    elif isinstance(value, TensorType):
        yield from expressions_in(value.sizes)
    elif isinstance(value, SizeType):
        yield from expressions_in(value.expression)
    elif isinstance(value, tuple):
        for part in value:
            yield from expressions_in(part)


def _size(size: int | torch.SymInt) -> Any:
    return size if isinstance(size, int) else _expression(size)


def _expression(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Any:
    expression = size.node.expr
    return int(expression) if isinstance(expression, sympy.Integer) else expression
