"""Runs a table of decompositions, each distinct operation traced once.

`ExportedProgram.run_decompositions` traces the whole program again, every layer as if it were the first.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from autoconvert.ir.editing import inline, replace_by_results, traced
from autoconvert.ir.nodes import type_key

Definitions = Mapping[Any, Callable[..., Any]]

_IMPLICIT = torch._C.DispatchKey.CompositeImplicitAutograd


def run_decompositions(graph: fx.Graph, definitions: Definitions) -> None:
    """Decomposes, in place, what `definitions` has, what PyTorch composes of others, and Python functions.

    `graph` needs the fake value of every node under `val`. What comes of a node keeps its provenance. Strides are
    nobody's concern: a view may stand where PyTorch would have to copy.
    """
    known: dict[object, fx.Graph] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not _is_composed(node.target, definitions):
            continue
        # A node without operands stands for itself, so that there is a fake value.
        operands = node.all_input_nodes or [node]
        names = {operand: f"operand_{index}" for index, operand in enumerate(operands)}
        key = _key(node, names)
        if key not in known:
            known[key] = _traced(node, names, definitions)
        with graph.inserting_before(node):
            result = inline(graph, known[key], {name: operand for operand, name in names.items()}, like=node)
        replace_by_results(node, result)
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), Tensor):
            node.meta["tensor_meta"] = _extract_tensor_metadata(node.meta["val"])


def _is_composed(target: Any, definitions: Definitions) -> bool:
    if not isinstance(target, OpOverload):
        return target is not operator.getitem
    return target in definitions or target.has_kernel_for_dispatch_key(_IMPLICIT)


def _key(node: fx.Node, names: Mapping[fx.Node, str]) -> object:
    """Equal for calls that differ in nothing but which values they are given."""
    shape = fx.map_arg((node.args, node.kwargs), names.__getitem__)
    # A Python function may give each call a number of its own.
    target = node.target if isinstance(node.target, OpOverload) else node
    return target, repr(shape), *(type_key(operand.meta["val"]) for operand in names)


def _traced(node: fx.Node, names: Mapping[fx.Node, str], definitions: Definitions) -> fx.Graph:
    def call(**operands: Any) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda operand: operands[names[operand]])
        return node.target(*args, **kwargs)  # type: ignore[operator]

    values = {name: _contiguous(operand.meta["val"]) for operand, name in names.items()}
    return traced(call, values, dict(definitions)).graph


def _contiguous(value: Any) -> Any:
    """PyTorch decomposes an operation by the strides of its operands, which calls of one key do not share."""
    if not isinstance(value, Tensor):
        return value
    with value.fake_mode:  # type: ignore[attr-defined]
        return torch.empty_like(value, memory_format=torch.contiguous_format)
