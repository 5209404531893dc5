"""Open lengths: a graph lowered at two lengths becomes one that takes any.

Whatever differs between the two is a length, whatever is the same is none: so no other size can be mistaken for one.
The runtime computes the sizes of all that an operation makes. A length that an operation is told must be told as
"what is left", or the graph takes no other length.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering.axes_of_one import squeeze_and_expand
from autoconvert.lowering.flatbuffer import NO_TENSOR, operator_code, read_model
from autoconvert.lowering.operation_names import NODE
from autoconvert.lowering.subgraph import OPEN, Subgraph

# Which operand of RESHAPE says the shape that it makes.
_SHAPE = 1

# What the converter is told of a node's module, in the name of its result.
_MODULE = re.compile(rb'([^"#;\[]*)' + NODE.encode())

Lengths = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Length:
    """The size of an axis that is `times` as long as the length `name`."""

    name: str
    times: int


# Of each axis of a tensor its size, or OPEN where it is a length with a number added.
Axes = tuple[int | Length, ...]


@dataclass(frozen=True)
class OpenModel:
    """A `ModelT` with open lengths, and what each axis of its tensors is, by subgraph."""

    model: Any
    axes: list[list[Axes]]


class FixedLengths(Exception):
    """An operation takes no length but one; the text says which."""


def open_lengths(one: bytes, other: bytes, lengths: Lengths) -> OpenModel:
    """A program that was lowered at two lengths for each name of `lengths`, with all of these open.

    Raises FixedLengths where an operation takes no length but one.
    """
    model, twin = read_model(one), read_model(other)
    graphs, twins = ([Subgraph(each, graph) for graph in each.subgraphs] for each in (model, twin))
    if len(graphs) != len(twins):
        raise FixedLengths("the operations differ from length to length")
    axes: list[list[Axes]] = []
    for graph, its in zip(graphs, twins, strict=True):
        _require_same_operators(graph, its)
        squeeze_and_expand(graph, its)
        sizes = _sizes(graph, its, lengths)
        _slice_from_both_ends(graph, its)
        _open_constants(graph, its)
        for tensor, opened in zip(graph.tensors, sizes, strict=False):
            if any(size.is_open for size in opened):
                tensor.shape = np.array([size.least for size in opened], np.int32)
                tensor.shapeSignature = np.array([OPEN if size.is_open else size.least for size in opened], np.int32)
        added = graph.shapes[len(sizes) :]
        axes.append([*(tuple(size.axis for size in opened) for opened in sizes), *added])
    return OpenModel(model, axes)


def _descriptions(graph: Subgraph) -> list[tuple[Any, ...]]:
    """What each operator is, and which tensors it takes and makes."""
    return [
        (
            graph.kind(operator),
            [int(index) for index in (*operator.inputs, NO_TENSOR, *operator.outputs)],
            None if operator.customOptions is None else bytes(operator.customOptions),
            *map(_described, (operator.builtinOptions, operator.builtinOptions2)),
        )
        for operator in graph.operators
    ]


def _described(options: Any | None) -> list[tuple[str, str]]:
    return [] if options is None else [(name, repr(value)) for name, value in sorted(vars(options).items())]


def _require_same_operators(graph: Subgraph, twin: Subgraph) -> None:
    descriptions, of_twin = _descriptions(graph), _descriptions(twin)
    for its, of_other in zip(descriptions, of_twin, strict=False):
        if its != of_other:
            raise FixedLengths(f"{its[0]} is another operation at another length")
    if len(descriptions) != len(of_twin) or len(graph.tensors) != len(twin.tensors):
        raise FixedLengths("the operations differ from length to length")


@dataclass(frozen=True)
class _Size:
    """How long an axis is where every length is 1, whether it is open, and what it is."""

    least: int
    is_open: bool
    axis: int | Length


def _sizes(graph: Subgraph, twin: Subgraph, lengths: Lengths) -> list[list[_Size]]:
    """The sizes of each tensor. Where they follow from no length, what is raised names its operation and module."""
    found = []
    for tensor, shapes in enumerate(zip(graph.shapes, twin.shapes, strict=True)):
        try:
            found.append(_opened(*shapes, lengths))
        except FixedLengths as fixed:
            raise FixedLengths(f"{fixed}{_made_in(graph, tensor)}") from fixed
    return found


def _made_in(graph: Subgraph, tensor: int) -> str:
    maker, told = graph.makers.get(tensor), _MODULE.search(graph.tensors[tensor].name or b"")
    module = told.group(1).decode(errors="replace").replace("/", ".").strip(".") if told else ""
    made = f", in the result of {graph.kind(maker)}" if maker is not None else ""
    return f"{made} in {module}" if module else made


def _opened(one: Sequence[int], other: Sequence[int], lengths: Lengths) -> list[_Size]:
    """The sizes of a shape.

    Raises FixedLengths for what is no multiple of a length, with or without a number added.
    """
    if len(one) != len(other):
        raise FixedLengths("the operations differ from length to length")
    return [_size(pair, lengths) for pair in zip(one, other, strict=True)]


def _size(pair: tuple[int, int], lengths: Lengths) -> _Size:
    if pair[0] == pair[1]:
        return _Size(pair[0], False, pair[0])
    grown = [size for ends in lengths.values() if (size := _at_one(pair, ends)) is not None]
    if not grown:
        raise FixedLengths(f"an axis is {pair[0]} or {pair[1]} long, which follows from no length")
    multiples = [Length(name, pair[0] // ends[0]) for name, ends in lengths.items() if _is_multiple(pair, ends)]
    return _Size(min(grown), True, multiples[0] if len(multiples) == 1 else OPEN)


def _is_multiple(pair: tuple[int, int], ends: tuple[int, int]) -> bool:
    return pair[0] % ends[0] == 0 and pair[0] * ends[1] == pair[1] * ends[0]


def _at_one(pair: tuple[int, int], ends: tuple[int, int]) -> int | None:
    """How long an axis is where a length is 1; None where it grows otherwise than by so many for each 1 of the length.

    The axis and the length are given at both lowerings.
    """
    times, rest = divmod(pair[1] - pair[0], ends[1] - ends[0])
    size = pair[0] - times * (ends[0] - 1)
    return size if rest == 0 and size > 0 else None


def _open_constants(graph: Subgraph, twin: Subgraph) -> None:
    """Tells shapes that differ as "what is left", which has to be so for every operator that reads them."""
    readers = graph.readers
    for index, tensor in enumerate(graph.tensors[: len(twin.tensors)]):
        value, of_twin = graph.constant(index), twin.constant(index)
        if value == of_twin:
            continue
        if value is None or of_twin is None or len(value) != len(of_twin) or tensor.type != schema.TensorType.INT32:
            raise FixedLengths("a constant is made for a length")
        numbers, its_numbers = np.frombuffer(value, np.int32), np.frombuffer(of_twin, np.int32)
        for operator, operand in readers[index]:
            _require_what_is_left(graph.kind(operator), operand, numbers != its_numbers)
        opened = np.where(numbers == its_numbers, numbers, np.int32(OPEN)).astype(np.int32)
        tensor.buffer = len(graph.model.buffers)
        graph.model.buffers.append(schema.BufferT(data=opened.view(np.uint8)))


def _require_what_is_left(operator: str, operand: int, differs: npt.NDArray[np.bool_]) -> None:
    """Requires that what differs is one number of the shape that RESHAPE makes, which tells it as "what is left"."""
    if operator != "RESHAPE" or operand != _SHAPE:
        raise FixedLengths(f"{operator} reads a constant that is made for a length")
    if differs.sum() > 1:
        raise FixedLengths(f"{operator} makes {differs.sum()} axes of open length")


def _slice_from_both_ends(graph: Subgraph, twin: Subgraph) -> None:
    """Makes STRIDED_SLICE of each SLICE of an open length, whose ends count from the one or the other end of an axis.

    The runtime knows the size of what SLICE makes of an open axis only once it gets there: what follows is planned
    anew in the middle of a run, no delegate takes the operation, and memory that holds values is given away.
    """
    for operator, its in zip(graph.subgraph.operators, twin.subgraph.operators, strict=True):
        if graph.kind(operator) != "SLICE":
            continue
        parts, of_twin = _sliced(graph, operator), _sliced(twin, its)
        if [part[1:] for part in parts] == [part[1:] for part in of_twin]:
            continue
        begins, stops = ([_place(*pair, at) for pair in zip(parts, of_twin, strict=True)] for at in (1, 2))
        operator.opcodeIndex = operator_code(graph.model, schema.BuiltinOperator.STRIDED_SLICE, version=1)
        operator.builtinOptionsType = schema.BuiltinOptions.StridedSliceOptions
        # A mask has a bit for each axis that is taken from its beginning, or to its end.
        begin_mask, end_mask = _bits(begin == 0 for begin in begins), _bits(stop is _AT_END for stop in stops)
        operator.builtinOptions = schema.StridedSliceOptionsT(begin_mask, end_mask)
        told = ([begin or 0 for begin in begins], [stop or 0 for stop in stops], [1] * len(stops))
        operator.inputs = [int(operator.inputs[0]), *(graph.add_constant(numbers) for numbers in told)]


# Of an axis its size, and where SLICE begins and stops.
_Part = tuple[int, int, int]
_AT_END = None


def _sliced(graph: Subgraph, operator: Any) -> list[_Part]:
    source, *told = map(int, operator.inputs)
    begins, sizes = (np.frombuffer(graph.constant(index) or b"", np.int32).tolist() for index in told)
    axes = zip(graph.shapes[source], begins, sizes, strict=True)
    return [(axis, begin, axis if size == OPEN else begin + size) for axis, begin, size in axes]


def _place(one: _Part, other: _Part, at: int) -> int | None:
    """Where a part begins or stops at both lowerings: so far from the beginning of an axis, or below 0 from its end.

    Raises FixedLengths where it is neither.
    """
    if one[at] == other[at]:
        return one[at]
    if one[0] - one[at] != other[0] - other[at] or one[1] == one[0]:
        raise FixedLengths("SLICE takes a part of an axis of open length")
    return one[at] - one[0] or _AT_END


def _bits(which: Iterable[bool]) -> int:
    return sum(1 << index for index, is_set in enumerate(which) if is_set)
