"""Outline fixed states: what is the same in every call of a text is computed once, by a program of its own.

A decoder that attends to an encoder's result computes keys and values from it that no token changes. They become
states that are written once; the program that is called for every chunk only reads them. Models of several programs ask
for it, and a decoder alone does not.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx

from autoconvert.analysis.regions import ancestors
from autoconvert.errors import Refused
from autoconvert.ir.editing import emit, finish
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.inputs import add_input, without_unread_weights
from autoconvert.ir.interface import Port, sizes_of, symbols_in
from autoconvert.ir.nodes import shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location
from autoconvert.ir.state import State
from autoconvert.ir.target import Target

aten = torch.ops.aten


def outline_fixed_states(program: Program, target: Target) -> tuple[Program, Program]:
    """The program that writes what no call changes, as outputs, and `program` with that as states of its own.

    The first takes those inputs that the streamed symbol has no part in; the second takes them no more.

    Raises:
        Refused: a size that a call needs is in none of the states.
    """
    graph = program.graph.graph
    fixed = tuple(port for port in program.inputs if program.streamed not in symbols_in(port.shape))
    invariant = _computed_from(program, {port.name for port in fixed})
    ends = [node for node in graph.nodes if node in invariant and any(user not in invariant for user in node.users)]
    values = [node for node in ends if isinstance(node.meta["val"], Tensor)]
    states = [
        target.fixed_state(index, sizes_of(node.meta["val"], program.symbols), node.meta["val"].dtype)
        for index, node in enumerate(values)
    ]
    once = _writer(program, fixed, dict(zip(states, values, strict=True)))
    kept = {node: _read(program, state, node) for state, node in zip(states, values, strict=True)}
    for node, state in kept.items():
        node.replace_all_uses_with(state, delete_user_cb=lambda user: user not in invariant)
    for node in [node for node in ends if node not in kept]:
        _measure_again(node, list(kept.values()), invariant)
    graph.eliminate_dead_code()
    for port in fixed:
        graph.erase_node(next(node for node in graph.find_nodes(op="placeholder") if node.target == port.name))
    inputs = tuple(port for port in program.inputs if port not in fixed)
    return once, without_unread_weights(
        dataclasses.replace(program, graph=finish(program.graph), inputs=inputs, states=(*program.states, *states))
    )


def _computed_from(program: Program, inputs: set[str]) -> set[fx.Node]:
    """The inputs, and what is computed from them and from weights and constants alone."""
    found: set[fx.Node] = set()
    known: set[fx.Node] = set()
    for node in program.graph.graph.nodes:
        operands = node.all_input_nodes
        if node.op == "placeholder":
            if node.target in inputs:
                found.add(node)
            elif node.target in program.weights:
                known.add(node)
        elif node.op == "get_attr":
            known.add(node)
        elif node.op == "call_function" and operands and all(n in found or n in known for n in operands):
            (found if any(n in found for n in operands) else known).add(node)
    return found


def _writer(program: Program, inputs: tuple[Port, ...], values: dict[State, fx.Node]) -> Program:
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {}
    needed = ancestors(values.values())
    names = {port.name for port in inputs}
    for node in program.graph.graph.nodes:
        if node in needed or (node.op == "placeholder" and node.target in names):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output({state.name: copies[node] for state, node in values.items()})
    outputs = tuple(state.port for state in values)
    symbols = {name: symbol for name, symbol in program.symbols.items() if name != program.streamed}
    return without_unread_weights(
        dataclasses.replace(
            program,
            graph=finish(graph_module(program.graph, graph)),
            inputs=inputs,
            outputs=outputs,
            states=(),
            symbols=symbols,
            streamed=None,
        )
    )


def _read(program: Program, state: State, node: fx.Node) -> fx.Node:
    """The input by which a state is read."""
    placeholder = add_input(program, state.name, shape(node), state.dtype)
    placeholder.meta = {**node.meta, "val": placeholder.meta["val"]}
    return placeholder


def _measure_again(size: fx.Node, states: list[fx.Node], invariant: set[fx.Node]) -> None:
    """A size that was read from an input is read from a state."""
    users = [user for user in size.users if user not in invariant]
    for state in states:
        for axis, other in enumerate(shape(state)):
            if isinstance(other, torch.SymInt) and other.node.expr == size.meta["val"].node.expr:
                with size.graph.inserting_after(state):
                    again = emit(size.graph, aten.sym_size.int, state, axis, like=size)
                size.replace_all_uses_with(again, delete_user_cb=lambda user: user in users)
                return
    raise Refused(f"{location(users[0])} needs a size of what is given once, which none of the states has.")
