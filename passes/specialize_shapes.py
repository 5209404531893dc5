"""Specialize shapes: a program as one of its signatures calls it, every size a number."""

import operator
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from sympy import Symbol
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import finish, inline, traced
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.interface import Port, Role, in_numbers
from autoconvert.ir.model import Model, Signature
from autoconvert.ir.nodes import concrete, named_results
from autoconvert.ir.program import HISTORY, Program
from autoconvert.ir.verify import verify_ends


def signature_programs(model: Model, names: Mapping[Role, str]) -> Iterator[tuple[str, Program]]:
    """The name of each signature of a model and what it calls, made one after the other.

    Raises:
        BrokenPass: its inputs or outputs are not those that it declares.
    """
    for signature in model.signatures:
        part = specialize_shapes(model.programs[signature.program], signature, names)
        verify_ends(part, signature.name)
        yield signature.name, part


def specialize_shapes(program: Program, signature: Signature, names: Mapping[Role, str]) -> Program:
    """The program as `signature` calls it: every shape a number, ports by the target's `names`, its outputs alone."""
    values = {program.symbols[name]: size for name, size in signature.sizes.items() if name != HISTORY}
    program = _with_history(program, signature.sizes.get(HISTORY))
    sizes = {port.name: in_numbers(port.shape, signature.sizes) for port in program.ports}
    inputs, outputs = (_specialized(ports, signature.sizes, names) for ports in (program.inputs, program.outputs))
    renamed = {old.name: new.name for old, new in zip(program.inputs, inputs, strict=True)}
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    with FakeTensorMode(), torch.no_grad():
        for node in program.graph.graph.nodes:
            if node.op == "call_module":
                copies[node] = _unrolled(graph, node, program.graph.get_submodule(str(node.target)), copies)
            elif node.op == "output":
                graph.output(fx.map_arg(_results(program, outputs, signature.without), lambda n: copies[n]))
            else:
                copies[node] = _copy(graph, node, copies, values, sizes)
            if node.op == "placeholder" and node.target in renamed:
                copies[node].target = renamed[node.target]
    return replace(
        program,
        graph=finish(graph_module(program.graph, graph)),
        inputs=inputs,
        outputs=tuple(port for port in outputs if port.role not in signature.without),
        states=tuple(replace(state, shape=in_numbers(state.shape, signature.sizes)) for state in program.states),
        symbols={},
        streamed=None,
    )


def _with_history(program: Program, history: int | None) -> Program:
    """The program over states of `history` entries; as it is for None.

    Only attention over a cache reads the caches and the mask, and their lengths off them.
    """
    if history is None:
        return program
    inputs = (
        replace(port, shape=(*port.shape[:-1], history)) if port.role is Role.MASK else port for port in program.inputs
    )
    return replace(
        program, inputs=tuple(inputs), states=tuple(state.with_capacity(history) for state in program.states)
    )


def _specialized(ports: Sequence[Port], sizes: Mapping[str, int], names: Mapping[Role, str]) -> tuple[Port, ...]:
    """The ports in numbers, under the target's names; of several in one role each keeps its own."""
    count = Counter(port.role for port in ports)
    named = {role: name for role, name in names.items() if count[role] == 1}
    return tuple(replace(p, name=named.get(p.role, p.name), shape=in_numbers(p.shape, sizes)) for p in ports)


def _results(program: Program, outputs: Sequence[Port], without: Collection[Role]) -> dict[str, fx.Node]:
    """What the graph returns, under the names of `outputs`, and the states."""
    results = named_results(program.graph.graph)
    by_port = {old.name: new for old, new in zip(program.outputs, outputs, strict=True)}
    return {
        by_port[name].name if name in by_port else name: node
        for name, node in results.items()
        if name not in by_port or by_port[name].role not in without
    }


def _unrolled(graph: fx.Graph, call: fx.Node, scan: nn.Module, copies: dict[fx.Node, Any]) -> Any:
    """A scan over so many positions, as operations; gives a node for each of its results."""
    arguments = {f"value_{index}": copies[node] for index, node in enumerate(call.args)}  # type: ignore[index]
    values = {name: node.meta["val"] for name, node in arguments.items()}
    body = traced(lambda **bound: scan(*bound.values()), values)
    return inline(graph, body.graph, arguments, like=call)


def _copy(
    graph: fx.Graph,
    node: fx.Node,
    copies: dict[fx.Node, Any],
    values: Mapping[Symbol, int],
    sizes: Mapping[str, tuple[int, ...]],
) -> Any:
    value = node.meta.get("val")
    if node.target is operator.getitem and isinstance(copies[node.args[0]], tuple | list):  # type: ignore[index]
        return copies[node.args[0]][node.args[1]]  # type: ignore[index]
    if isinstance(value, torch.SymInt):
        return concrete(value, values)
    if node.target is torch.ops.aten.sym_size.int:
        # How many slots there are is the context in a program, and may be a history here.
        return copies[node.args[0]].meta["val"].shape[node.args[1]]  # type: ignore[index]
    copy = graph.node_copy(node, lambda n: copies[n])
    copy.meta = dict(node.meta)
    if node.op == "call_function":
        args, kwargs = fx.map_arg((copy.args, copy.kwargs), lambda n: n.meta["val"])
        copy.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
    elif isinstance(value, Tensor):
        shape = sizes.get(str(node.target)) or [concrete(size, values) for size in value.shape]
        copy.meta["val"] = torch.empty(shape, dtype=value.dtype)
    return copy
