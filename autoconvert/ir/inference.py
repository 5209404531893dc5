"""Inference of types: what an operation gives for operands of given types, asked of PyTorch once for each.

Sizes are sums of multiples of a few symbols. A choice of a number for each symbol, and for each symbol another choice
in which it alone is one less, tell such sums apart. With numbers PyTorch's shape functions take microseconds and with
symbols milliseconds: those are asked where numbers do not agree.
"""

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import sympy
import torch
from torch import fx
from torch._ops import OpOverload

from autoconvert.ir.editing import fake_mode_of, infer
from autoconvert.ir.types import Known, SizeType, TensorType, Type, Typed, expressions_in, type_of

# A call: its target, and its arguments with operands by their types.
Key = tuple[Any, ...]

# The number of the first symbol; the next ones follow at a distance.
_FIRST = 19
_APART = 4

# A choice of numbers: the symbol whose number is one less than in the choice None.
Choice: TypeAlias = sympy.Symbol | None


class Inference:
    """Types of nodes, each distinct operation on operands of distinct types inferred once.

    What is recorded of operands is taken as it is; strides are no part of a type.
    """

    def __init__(self) -> None:
        # The values are kept, so that no other gets their identity.
        self._types: dict[int, tuple[Any, Type]] = {}
        self._agreed: set[tuple[Key, Type]] = set()
        self._symbols: dict[sympy.Symbol, int] = {}
        self._numbers: dict[tuple[Any, Choice], Any] = {}
        self._results: dict[Key, Type] = {}
        self._symbolic: dict[Key, Type] = {}

    def recorded(self, node: fx.Node) -> Type:
        """The type that the graph says the node's value has."""
        value = node.meta.get("val")
        known = self._types.get(id(value))
        if known is None:
            known = self._types[id(value)] = (value, type_of(value))
        return known[1]

    def key(self, node: fx.Node) -> Key:
        """What decides the type of a call: the same key, the same type."""
        return (node.target, self._key(node.args), self._key(node.kwargs) if node.kwargs else ())

    def agrees(self, node: fx.Node, key: Key, module: Typed | None = None) -> bool:
        """Whether a call, of `module` where it is one, gives what is recorded, by numbers in the place of symbols.

        False also where that cannot be told: of what only running tells, or an operation that takes no such numbers.
        """
        recorded = self.recorded(node)
        agreed = (key, recorded)
        if module is None and agreed in self._agreed:
            return True
        for choice in (None, *_symbols_in(agreed)):
            target, args, kwargs = self._concrete(key, choice)
            try:
                result = module.types(args, self.graph) if module is not None else self._called(target, args, kwargs)
            except Exception:
                return False
            if result != self._concrete(recorded, choice):
                return False
        if module is None:
            self._agreed.add(agreed)
        return True

    def of_module(self, key: Key, module: Typed) -> tuple[TensorType, ...]:
        """The types of what `module` gives, with numbers in the place of symbols; ValueError says what does not fit."""
        _, args, _ = self._concrete(key, None)
        return module.types(args, self.graph)

    def call(self, node: fx.Node, key: Key) -> Type:
        """The type of what a call gives, with its symbols, from the recorded types of its operands.

        Raises whatever the operation raises where it cannot be computed on such operands.
        """
        if key in self._symbolic:
            return self._symbolic[key]
        mode = fake_mode_of(node)
        environment = mode.shape_env if mode is not None else None
        # A size that only running tells is a new symbol each time.
        with environment.ignore_fresh_unbacked_symbols() if environment is not None else nullcontext():
            self._symbolic[key] = type_of(infer(node))
        return self._symbolic[key]

    def graph(self, owner: fx.GraphModule, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """The types of what a graph, whose results are a tuple, gives for inputs of these types without symbols."""
        types: dict[fx.Node, Any] = {}
        given = iter(inputs)
        for node in owner.graph.nodes:
            if node.op == "placeholder":
                types[node] = next(given)
            elif node.op == "get_attr":
                types[node] = type_of(operator.attrgetter(str(node.target))(owner))
            elif node.op == "call_function":
                args, kwargs = (self._key(each, types.__getitem__) for each in (node.args, node.kwargs))
                types[node] = self._called(node.target, args, kwargs)
        return tuple(types[result] for result in owner.graph.output_node().args[0])  # type: ignore[union-attr, index]

    def _key(self, value: Any, type_of_node: Callable[[fx.Node], Type] | None = None) -> Any:
        if isinstance(value, fx.Node):
            return (type_of_node or self.recorded)(value)
        if isinstance(value, list | tuple):
            return tuple([self._key(part, type_of_node) for part in value])
        if isinstance(value, dict):
            return tuple([(name, self._key(part, type_of_node)) for name, part in value.items()])
        if isinstance(value, slice):
            return (slice, self._key((value.start, value.stop, value.step), type_of_node))
        return type_of(value)

    def _called(self, target: Any, args: Any, kwargs: Any) -> Type:
        """The type of what `target` gives for arguments without symbols."""
        key = (target, args, kwargs)
        if key not in self._results:
            named = {name: _value(part) for name, part in kwargs}
            if isinstance(target, OpOverload) and any(each.name == "device" for each in target._schema.arguments):
                named["device"] = torch.device("meta")
            with torch.no_grad():
                self._results[key] = type_of(target(*map(_value, args), **named))
        return self._results[key]

    def _concrete(self, value: Any, choice: Choice) -> Any:
        """A type, or what holds types, with numbers for its symbols."""
        if isinstance(value, tuple):
            return tuple([self._concrete(part, choice) for part in value])
        if isinstance(value, TensorType):
            return TensorType(value.dtype, tuple([self._number(size, choice) for size in value.sizes]))
        if isinstance(value, SizeType):
            number = self._number(value.expression, choice)
            return Known(type(number), number)
        return value

    def _number(self, size: Any, choice: Choice) -> Any:
        if isinstance(size, int):
            return size
        known = (size, choice)
        if known not in self._numbers:
            symbols = sorted(size.free_symbols, key=str)
            places = {symbol: self._symbols.setdefault(symbol, len(self._symbols)) for symbol in symbols}
            number = size.subs({each: _FIRST + _APART * place - (each == choice) for each, place in places.items()})
            self._numbers[known] = (
                bool(number) if number.is_Boolean else int(number) if number.is_integer else float(number)
            )
        return self._numbers[known]


def _symbols_in(types: Any) -> list[sympy.Symbol]:
    symbols = {symbol for expression in set(expressions_in(types)) for symbol in expression.free_symbols}
    return sorted(symbols, key=str)


def _value(kind: Any) -> Any:
    """A value of a type without symbols, its tensors without numbers in them."""
    if isinstance(kind, TensorType):
        return torch.empty(kind.sizes, dtype=kind.dtype, device="meta")
    if isinstance(kind, Known):
        return kind.value
    if kind and kind[0] is slice:
        return slice(*_value(kind[1]))
    return [_value(part) for part in kind]
