"""The interface of a program: what goes in and comes out, by role and not by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import sympy
import torch
from torch import Tensor, fx

# A number, or an expression in the names of a program's symbols: "length", "2*source".
Size = int | str

# Of a symbol, and not of a function such as Max.
_NAME = re.compile(r"[A-Za-z_]\w*\b(?!\()")


class Role(Enum):
    """What a value is for. Its text is the name that a port has until a target gives it another."""

    TOKENS = "tokens"
    # Where each token stands in its text, known when the file is written.
    POSITIONS = "positions"
    # Where a chunk goes, known when it is run.
    INPUT_POS = "input_pos"
    # How many tokens came before a single step, and how many steps there are.
    OFFSET = "offset"
    STEPS = "steps"
    # Added to the scores of attention: who sees whom.
    MASK = "mask"
    # True where a token is no padding.
    PADDING_MASK = "padding_mask"
    STATE = "state"
    WEIGHT = "weight"
    LOGITS = "logits"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class Port:
    """An input or an output: `shape` in numbers and named symbols."""

    name: str
    role: Role
    dtype: torch.dtype
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class Interface:
    """What goes in and comes out for good: states and weights are for the compiler to pass."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def symbols_in(shape: Sequence[Size]) -> set[str]:
    """The names of the symbols that a shape has."""
    return {name for size in shape if isinstance(size, str) for name in _NAME.findall(size)}


def in_numbers(shape: Sequence[Size], values: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with each symbol set to its value."""
    own = {name: sympy.Symbol(name) for name in symbols_in(shape)}
    return tuple(int(sympy.sympify(size, locals=own).subs(values)) if isinstance(size, str) else size for size in shape)


def sizes_of(value: Tensor, symbols: Mapping[str, sympy.Symbol]) -> tuple[Size, ...]:
    """A value's shape with its symbols by their names; a symbol without a name stands as the graph has it."""
    names = {symbol: sympy.Symbol(name) for name, symbol in symbols.items()}
    return tuple(size if isinstance(size, int) else str(size.node.expr.xreplace(names)) for size in value.shape)


def port_of(node: fx.Node, name: str, role: Role, symbols: Mapping[str, sympy.Symbol]) -> Port:
    """The port that a node is, by the value that it records."""
    value = node.meta["val"]
    return Port(name, role, value.dtype, sizes_of(value, symbols))
