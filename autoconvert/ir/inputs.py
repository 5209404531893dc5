"""Inputs of a program's graph: new ones, and weights that are none any more."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode

from autoconvert.ir.program import Program


def add_input(program: Program, name: str, sizes: Sequence[Any], dtype: torch.dtype) -> fx.Node:
    """A placeholder after those that are there and before the weights; the port is for the caller to declare."""
    graph = program.graph.graph
    given = [node for node in graph.find_nodes(op="placeholder") if node.target not in program.weights]
    mode = detect_fake_mode([node.meta["val"] for node in given if isinstance(node.meta["val"], Tensor)])
    assert mode is not None, "a program's values are fake tensors"
    with graph.inserting_after(given[-1]):
        node = graph.placeholder(name)
    with mode:
        node.meta["val"] = torch.empty(list(sizes), dtype=dtype)
    return node


def without_unread_weights(program: Program) -> Program:
    """The program without the weights that no operation reads; those that are left are in the order of the graph."""
    graph = program.graph.graph
    for node in graph.find_nodes(op="placeholder"):
        if node.target in program.weights and not node.users:
            graph.erase_node(node)
    program.graph.recompile()
    left = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    return dataclasses.replace(program, weights={n: program.weights[n] for n in left if n in program.weights})
