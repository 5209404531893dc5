"""Open lengths: a graph lowered at two lengths becomes one that takes any.

Whatever differs between the two is a length, whatever is the same is none: so no other size can be mistaken for one.
The runtime computes the sizes of all that an operation makes. A length that an operation is told must be told as
"what is left", or the graph takes no other length.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering.flatbuffer import operator_code, operator_name, read_model, write_model

# In a shape of TFLite: known when the graph is run.
_OPEN = -1
# The operand of an operator that says the shape of what it makes.
_SHAPES = {"RESHAPE": 1, "SLICE": 2}

Lengths = Mapping[str, tuple[int, int]]
_Numbers = npt.NDArray[np.int32]


class FixedLengths(Exception):
    """An operation takes no length but one; the text says which."""


def open_lengths(one: bytes, other: bytes, lengths: Lengths) -> bytes:
    """The flatbuffer of a program that was lowered at two lengths for each name of `lengths`, with all of these open.

    Raises FixedLengths where an operation takes no length but one.
    """
    model, twin = read_model(one), read_model(other)
    graphs, twins = ([_Graph(each, graph) for graph in each.subgraphs] for each in (model, twin))
    if len(graphs) != len(twins):
        raise FixedLengths("the operations differ from length to length")
    for graph, its in zip(graphs, twins, strict=True):
        _require_same_operators(graph, its)
        opened = [_opened(*shapes, lengths) for shapes in zip(graph.shapes, its.shapes, strict=True)]
        _open_constants(graph, its)
        for tensor, (least, signature) in zip(graph.tensors, opened, strict=True):
            if _OPEN in signature:
                tensor.shape, tensor.shapeSignature = np.array(least, np.int32), np.array(signature, np.int32)
        _slice_by_masks(graph)
    return write_model(model)


@dataclass(frozen=True)
class _Graph:
    """A subgraph of a model."""

    model: Any
    subgraph: Any

    @property
    def tensors(self) -> list[Any]:
        return list(self.subgraph.tensors)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [() if each.shape is None else tuple(map(int, each.shape)) for each in self.subgraph.tensors]

    @property
    def descriptions(self) -> list[tuple[Any, ...]]:
        """What each operator is, and which tensors it takes and makes."""
        return [
            (
                operator_name(self.model, operator),
                [int(index) for index in (*operator.inputs, _OPEN, *operator.outputs)],
                None if operator.customOptions is None else bytes(operator.customOptions),
                *map(_described, (operator.builtinOptions, operator.builtinOptions2)),
            )
            for operator in self.subgraph.operators
        ]

    @property
    def readers(self) -> dict[int, list[tuple[Any, int]]]:
        """The operators that read each tensor, and as which operand."""
        readers: dict[int, list[tuple[Any, int]]] = defaultdict(list)
        for operator in self.subgraph.operators:
            for operand, index in enumerate(operator.inputs):
                readers[int(index)].append((operator, operand))
        return readers

    def constant(self, tensor: int) -> bytes | None:
        data = self.model.buffers[self.subgraph.tensors[tensor].buffer].data
        return None if data is None else bytes(data)


def _described(options: Any | None) -> list[tuple[str, str]]:
    return [] if options is None else [(name, repr(value)) for name, value in sorted(vars(options).items())]


def _require_same_operators(graph: _Graph, twin: _Graph) -> None:
    descriptions, of_twin = graph.descriptions, twin.descriptions
    for its, of_other in zip(descriptions, of_twin, strict=False):
        if its != of_other:
            raise FixedLengths(f"{its[0]} is another operation at another length")
    if len(descriptions) != len(of_twin) or len(graph.tensors) != len(twin.tensors):
        raise FixedLengths("the operations differ from length to length")


def _opened(one: Sequence[int], other: Sequence[int], lengths: Lengths) -> tuple[list[int], list[int]]:
    """A shape where every length is 1, and the same with open axes.

    Raises FixedLengths for what is a multiple of no length.
    """
    least, signature = list(one), list(one)
    if len(one) != len(other):
        raise FixedLengths("the operations differ from length to length")
    for axis, pair in enumerate(zip(one, other, strict=True)):
        if pair[0] == pair[1]:
            continue
        times = [
            pair[0] // size
            for size, twin in lengths.values()
            if pair[0] % size == 0 and pair[0] * twin == pair[1] * size
        ]
        if len(times) != 1:
            raise FixedLengths(f"an axis is {pair[0]} or {pair[1]} long, which is a multiple of no length")
        least[axis], signature[axis] = times[0], _OPEN
    return least, signature


def _open_constants(graph: _Graph, twin: _Graph) -> None:
    """Tells shapes that differ as "what is left", which has to be so for every operator that reads them."""
    readers = graph.readers
    for index, tensor in enumerate(graph.tensors):
        value, of_twin = graph.constant(index), twin.constant(index)
        if value == of_twin:
            continue
        if value is None or of_twin is None or len(value) != len(of_twin) or tensor.type != schema.TensorType.INT32:
            raise FixedLengths("a constant is made for a length")
        numbers, its_numbers = np.frombuffer(value, np.int32), np.frombuffer(of_twin, np.int32)
        for operator, operand in readers[index]:
            _require_what_is_left(graph, operator, operand, numbers, its_numbers)
            _require_what_is_left(twin, operator, operand, its_numbers, numbers)
        opened = np.where(numbers == its_numbers, numbers, np.int32(_OPEN)).astype(np.int32)
        tensor.buffer = len(graph.model.buffers)
        graph.model.buffers.append(schema.BufferT(data=opened.view(np.uint8)))


def _require_what_is_left(graph: _Graph, operator: Any, operand: int, numbers: _Numbers, others: _Numbers) -> None:
    """Requires that each number that differs from the other's is what the operator makes of "what is left"."""
    name = operator_name(graph.model, operator)
    differing = np.flatnonzero(numbers != others).tolist()
    if _SHAPES.get(name) != operand:
        raise FixedLengths(f"{name} reads a constant that is made for a length")
    if name == "RESHAPE" and len(differing) > 1:
        raise FixedLengths(f"{name} makes {len(differing)} axes of open length")
    if name == "SLICE":
        source, begin = (int(index) for index in operator.inputs[:2])
        begins = graph.constant(begin)
        for axis in differing:
            if begins is None or np.frombuffer(begins, np.int32)[axis] or graph.shapes[source][axis] != numbers[axis]:
                raise FixedLengths(f"{name} takes a part of an axis of open length")


def _slice_by_masks(graph: _Graph) -> None:
    """Tells "what is left" of an axis by a bit of STRIDED_SLICE's masks, not by a size of SLICE.

    The runtime knows the size of what SLICE makes of an open axis only once it gets there. What follows is planned
    anew in the middle of a run, no delegate takes the operation, and memory that holds values is given away.
    """
    for operator in graph.subgraph.operators:
        if operator_name(graph.model, operator) != "SLICE":
            continue
        source, begin, size = map(int, operator.inputs)
        begins, sizes = (np.frombuffer(graph.constant(index) or b"", np.int32) for index in (begin, size))
        rest = sizes == _OPEN
        if not rest.any():
            continue
        mask = sum(1 << axis for axis in np.flatnonzero(rest).tolist())
        operator.opcodeIndex = operator_code(graph.model, schema.BuiltinOperator.STRIDED_SLICE, version=1)
        operator.builtinOptionsType = schema.BuiltinOptions.StridedSliceOptions
        operator.builtinOptions = schema.StridedSliceOptionsT(beginMask=mask, endMask=mask)
        ends, strides = np.where(rest, 0, begins + sizes), np.ones_like(sizes)
        operator.inputs = [source, begin, *(_constant(graph, numbers) for numbers in (ends, strides))]


def _constant(graph: _Graph, numbers: _Numbers) -> int:
    """A new tensor that holds `numbers`."""
    graph.model.buffers.append(schema.BufferT(data=numbers.astype(np.int32).view(np.uint8)))
    shape = np.array(numbers.shape, np.int32)
    graph.subgraph.tensors.append(
        schema.TensorT(shape=shape, type=schema.TensorType.INT32, buffer=len(graph.model.buffers) - 1, name=b"slice")
    )
    return len(graph.subgraph.tensors) - 1
