"""Sizes that follow from shapes, as operators whose results the runtime knows before it runs a graph.

TFLite evaluates a few operations of whole numbers as soon as it knows the shapes of a graph's inputs: SHAPE, and
those below of what is known. What is as long as such a result says is planned beforehand. With any other arithmetic,
sums among it, the runtime would learn a length in mid-run only (see open_lengths.py). So a sum is a length of a range.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering.subgraph import OPEN, Subgraph

_INT32 = schema.TensorType.INT32
_OPTIONS = {
    "ADD": schema.AddOptionsT,
    "SUB": schema.SubOptionsT,
    "MINIMUM": schema.MaximumMinimumOptionsT,
    "MAXIMUM": schema.MaximumMinimumOptionsT,
}
_OF_KNOWN = frozenset({"RANGE", "MUL", "RESHAPE", "CONCATENATION", "STRIDED_SLICE"})


def known_sizes(graph: Subgraph) -> dict[int, Any]:
    """The tensors that the runtime knows from shapes alone, and the operator that computes each, in their order."""
    inputs, makers = set(map(int, graph.subgraph.inputs)), graph.makers
    known: dict[int, Any] = {}
    for operator in graph.subgraph.operators:
        operands, kind = set(map(int, operator.inputs)), graph.kind(operator)
        if kind == "SHAPE":
            is_known = operands <= inputs | known.keys()
        else:
            is_of_known = all(each in known or (each not in inputs and each not in makers) for each in operands)
            is_known = kind in _OF_KNOWN and is_of_known and not operands.isdisjoint(known)
        if is_known:
            known[int(operator.outputs[0])] = operator
    return known


class Sizes:
    """Writes `operators` that compute sizes; each size is an int32 scalar, told by its tensor in `graph`."""

    def __init__(self, graph: Subgraph) -> None:
        self.operators: list[Any] = []
        self._graph = graph
        self._numbers: dict[int, int] = {}

    @cached_property
    def _one(self) -> int:
        return self._graph.add_constant([1])

    @cached_property
    def _scalar(self) -> int:
        return self._graph.add_constant([])

    def number(self, value: int) -> int:
        if value not in self._numbers:
            self._numbers[value] = self._graph.add_constant(value)
        return self._numbers[value]

    def length(self, tensor: int, axis: int) -> int:
        """How long an axis of `tensor` is."""
        shape = self._add("SHAPE", [tensor], (len(self._graph.signature(tensor)),), schema.ShapeOptionsT(_INT32))
        ends = [self._graph.add_constant([axis]), self._graph.add_constant([axis + 1]), self._one]
        return self._add("STRIDED_SLICE", [shape, *ends], (), schema.StridedSliceOptionsT(shrinkAxisMask=1))

    def times(self, size: int, factor: int) -> int:
        return self._add("MUL", [size, self.number(factor)], (), schema.MulOptionsT())

    def steps(self, begin: int, end: int, step: int = 1) -> int:
        """How many steps lead from `begin` to `end`, which is no less: the quotient, rounded up."""
        return self._length_of(self.numbers(begin, end, step))

    def plus(self, size: int, number: int) -> int:
        value = next((value for value, tensor in self._numbers.items() if tensor == size), None)
        if value is not None:
            return self.number(value + number)
        return self.steps(self.number(-number), size)

    def least(self, size: int, other: int) -> int:
        """The smaller one of two."""
        counted = self.numbers(self.number(0), size)
        begin, stop = self._graph.add_constant([0]), self._add("RESHAPE", [other, self._one], (1,))
        return self._length_of(
            self._add("STRIDED_SLICE", [counted, begin, stop, self._one], (OPEN,), schema.StridedSliceOptionsT())
        )

    def numbers(self, begin: int, end: int, step: int = 1) -> int:
        """The whole numbers from `begin` up to `end`, without it: int32 [steps(begin, end, step)]."""
        return self._add("RANGE", [begin, end, self.number(step)], (OPEN,), schema.RangeOptionsT())

    def joined(self, numbers: Sequence[int]) -> int:
        """Tensors int32 [length of each], one after the other."""
        return self._add("CONCATENATION", numbers, (OPEN,), schema.ConcatenationOptionsT(axis=0))

    def first_of(self, numbers: int) -> int:
        """The first number of an int32 [length]: a place, which only the run knows."""
        begin = self._graph.add_constant([0])
        return self._add(
            "STRIDED_SLICE", [numbers, begin, self._one, self._one], (), schema.StridedSliceOptionsT(shrinkAxisMask=1)
        )

    def later(self, kind: str, one: int, other: int) -> int:
        """ADD, SUB, MINIMUM or MAXIMUM of two, of which the first may be some: places, which only the run knows."""
        return self._add(kind, [one, other], self._graph.signature(one), _OPTIONS[kind]())

    def _length_of(self, numbers: int) -> int:
        shape = self._add("SHAPE", [numbers], (1,), schema.ShapeOptionsT(_INT32))
        return self._add("RESHAPE", [shape, self._scalar], ())

    def _add(self, kind: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None) -> int:
        output = self._graph.add_tensor(shape, _INT32)
        self.operators.append(self._graph.operator(kind, inputs, output, options))
        return output
