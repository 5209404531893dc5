"""Attention over a cache as it stands in a flatbuffer: known again by its operators, its axes and its mask."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoconvert.ir.program import HISTORY, LENGTH
from autoconvert.lowering.open_lengths import Axes, Length
from autoconvert.lowering.subgraph import Subgraph
from autoconvert.ops.attention import HIDES

QUERIES, KEYS = Length(LENGTH, 1), Length(HISTORY, 1)
# What makes strengths of products: each row alone.
_ROW_BY_ROW = frozenset({"ADD", "MUL", "DIV", "TANH", "CONCATENATION", "SOFTMAX", "STRIDED_SLICE"})


@dataclass(frozen=True)
class CachedAttention:
    """Operators in their order: the product with keys, what makes strengths of it, the product with values.

    Rows of the products are [repeats × queries]: so many heads share a key. `window` is how many positions a query
    attends to, its own among them, if it was made with one.
    """

    operators: tuple[Any, ...]
    repeats: int
    window: int | None

    @property
    def operands(self) -> list[int]:
        """The tensors that come from elsewhere: queries, keys, what is added or multiplied, values."""
        first, *others = self.operators
        return [*map(int, first.inputs), *(int(i) for operator in others for i in operator.inputs[1:])]


@dataclass(frozen=True)
class CachedAttentions:
    """Those of a graph of which `axes` says what is a length; `positions` and `mask` are inputs, the mask causal."""

    graph: Subgraph
    axes: Sequence[Axes]
    positions: int
    mask: int

    def __iter__(self) -> Iterator[CachedAttention]:
        makers, readers = self.graph.makers, self.graph.readers

        def made_of(operator: Any) -> Any | None:
            operand = int(operator.inputs[0])
            return makers.get(operand) if len(readers[operand]) == 1 else None

        def only_reader(operator: Any) -> Any | None:
            (reader, operand), *others = readers[int(operator.outputs[0])] or [(None, 0)]
            return None if others or operand else reader

        for operator in self.graph.operators:
            if self.graph.kind(operator) == "SOFTMAX":
                before, after = self._up_to_product(operator, made_of), self._up_to_product(operator, only_reader)
                if before and after and (found := self._attention((*reversed(before), operator, *after), makers)):
                    yield found

    def _up_to_product(self, softmax: Any, next_to: Callable[[Any], Any | None]) -> list[Any]:
        """From beside the softmax to a product; empty where something else lies between."""
        chain: list[Any] = []
        while (found := next_to(chain[-1] if chain else softmax)) is not None:
            chain.append(found)
            if self.graph.kind(found) == "BATCH_MATMUL":
                return chain
            if self.graph.kind(found) not in _ROW_BY_ROW:
                break
        return []

    def _attention(self, operators: tuple[Any, ...], makers: dict[int, Any]) -> CachedAttention | None:
        first, last = operators[0], operators[-1]
        rows, keys = self.axes[first.outputs[0]][-2:]
        masks = [int(i) for each in operators[1:-1] for i in each.inputs[1:] if self._is_mask(int(i), makers)]
        if keys != KEYS or not masks or self.graph.kind(last) != "BATCH_MATMUL":
            return None
        if isinstance(rows, Length):
            repeats = rows.times if rows.name == LENGTH else None
        else:
            repeats = None if QUERIES in self.axes[self.positions] else rows
        window = self._window(masks[0], makers)
        return None if repeats is None else CachedAttention(operators, repeats, window)

    def _is_mask(self, tensor: int, makers: dict[int, Any]) -> bool:
        """Whether it hides all that the mask that is given hides."""
        if tensor == self.mask or (maker := makers.get(tensor)) is None:
            return tensor == self.mask
        operands = list(map(int, maker.inputs))
        match self.graph.kind(maker):
            case "CONCATENATION":
                return all(self._is_mask(each, makers) for each in operands)
            case "ADD":
                return any(self._is_mask(each, makers) for each in operands)
            case "SELECT_V2":
                other = self._number(operands[2], np.float32)
                return self._is_mask(operands[1], makers) and other is not None and other <= HIDES
        return False

    def _window(self, mask: int, makers: dict[int, Any]) -> int | None:
        """The window of a mask, if ops.attention.attend made it: slots ≥ max(positions − (window − 1), 0) are near."""

        def source(tensor: int, through: str = "RESHAPE") -> int:
            while (maker := makers.get(tensor)) is not None and self.graph.kind(maker) == through:
                tensor = int(maker.inputs[0])
            return tensor

        def operands(tensor: int, kind: str) -> list[int]:
            maker = makers.get(source(tensor))
            return list(map(int, maker.inputs)) if maker is not None and self.graph.kind(maker) == kind else []

        # One mask for all heads of a group, one after the other.
        match operands(source(mask, through="CONCATENATION"), "SELECT_V2"):
            case [is_near, given, _] if given == self.mask:
                slots, first = operands(is_near, "GREATER_EQUAL") or (mask, mask)
            case _:
                return None
        match operands(slots, "SUB"), operands(first, "MAXIMUM"):
            case [counted, _], [moved, zero] if operands(counted, "CUMSUM") and self._number(zero) == 0:
                positions, reach = operands(moved, "SUB") or (mask, mask)
            case _:
                return None
        number = self._number(reach)
        return int(number) + 1 if source(positions) == self.positions and number is not None else None

    def _number(self, tensor: int, dtype: type[np.int32 | np.float32] = np.int32) -> float | None:
        """What a tensor of one number holds."""
        held = self.graph.constant(tensor)
        return np.frombuffer(held, dtype)[0].item() if held is not None and len(held) == 4 else None
