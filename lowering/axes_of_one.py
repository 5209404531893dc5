"""Axes of one: RESHAPE that only takes out or puts in axes of size 1 becomes SQUEEZE and EXPAND_DIMS.

RESHAPE is told one size at most as "what is left". The others are told no sizes, so that any number may be open.
"""

import operator
from collections.abc import Sequence
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering.subgraph import Subgraph

Shape = tuple[int, ...]


def squeeze_and_expand(graph: Subgraph, twin: Subgraph) -> None:
    """Rewrites the same RESHAPEs of a graph that was lowered at two lengths: those that make several axes differ."""
    shapes, its_shapes = graph.shapes, twin.shapes
    operators: tuple[list[Any], list[Any]] = ([], [])
    for one, other in zip(graph.operators, twin.operators, strict=True):
        (source, result), (its_source, its_result) = _ends(one, shapes), _ends(other, its_shapes)
        is_told = graph.kind(one) == "RESHAPE" and sum(map(operator.ne, result, its_result)) > 1
        is_rewritten = is_told and all(map(_moves_ones, (source, its_source), (result, its_result)))
        operators[0].extend(_steps(graph, one, source, result) if is_rewritten else [one])
        operators[1].extend(_steps(twin, other, its_source, its_result) if is_rewritten else [other])
    graph.subgraph.operators, twin.subgraph.operators = operators


def _ends(step: Any, shapes: Sequence[Shape]) -> tuple[Shape, Shape]:
    """The shapes of what an operator takes and makes first."""
    return shapes[int(step.inputs[0])] if len(step.inputs) else (), shapes[int(step.outputs[0])]


def _moves_ones(source: Shape, result: Shape) -> bool:
    return source != result and _without_ones(source) == _without_ones(result)


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _ones(shape: Shape) -> list[int]:
    return [axis for axis, size in enumerate(shape) if size == 1]


def _steps(graph: Subgraph, reshape: Any, source: Shape, result: Shape) -> list[Any]:
    """SQUEEZE of all axes of size 1, and EXPAND_DIMS for each that the result has."""
    tensor, dtype = int(reshape.inputs[0]), graph.tensors[int(reshape.outputs[0])].type
    steps: list[Any] = []

    def add(kind: str, inputs: Sequence[int], shape: Shape, options: Any) -> int:
        output = graph.add_tensor(shape, dtype)
        steps.append(graph.operator(kind, inputs, output, options))
        return output

    shape = _without_ones(source)
    if _ones(source):
        tensor = add("SQUEEZE", [tensor], shape, schema.SqueezeOptionsT(squeezeDims=_ones(source)))
    for axis in _ones(result):
        shape = (*shape[:axis], 1, *shape[axis:])
        tensor = add("EXPAND_DIMS", [tensor, graph.add_constant([axis])], shape, schema.ExpandDimsOptionsT())
    steps[-1].outputs = list(reshape.outputs)
    return steps
