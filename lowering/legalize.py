"""Legalize: operations that the target has no kernel for become operations that it has."""

from collections.abc import Collection

import torch
from torch import fx

from autoconvert.ir.editing import finish
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.target import Target
from autoconvert.lowering.bodies import repetition
from autoconvert.lowering.constant_operands import constant_operands_last
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.decomposition import decompose_nodes


def legalize(graph: fx.GraphModule, target: Target, weights: Collection[str] = ()) -> fx.GraphModule:
    """A copy of `graph` in which every operation that `target` has a body for is replaced by that."""
    legal = fx.Graph()
    legal.output(legal.graph_copy(graph.graph, {}))
    copy = graph_module(graph, legal)
    decompose_nodes(copy.graph, target.bodies)
    # Bodies repeat too.
    canonicalize(copy, weights)
    if decompose_nodes(copy.graph, {torch.ops.aten.expand.default: repetition.expand}):
        canonicalize(copy, weights)
    # Last, since the canonical form of a sum with a negative is a difference.
    constant_operands_last(copy.graph)
    return finish(copy)
