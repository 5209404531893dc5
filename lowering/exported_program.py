"""A functional graph as the `ExportedProgram` that `torch.export.export` would make of it, without tracing it again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree


def exported_program(graph: fx.GraphModule, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """`graph`, of ATen operations from placeholders by the names of `inputs` to a dict of tensors by name.

    Its tensors, which `get_attr` nodes name, become buffers: inputs before all others. Every node needs its fake
    value under `val`. `graph` is left as it is.

    Raises:
        SpecViolationError: of torch.export, where an operation has no schema.
    """
    copy = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    tensors = {str(node.target): node for node in graph.graph.find_nodes(op="get_attr")}
    buffers = {copy.placeholder(f"b_{name}"): name for name in tensors}
    for placeholder, name in buffers.items():
        placeholder.meta = dict(tensors[name].meta)
    by_name = {name: placeholder for placeholder, name in buffers.items()}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            values[node] = by_name[str(node.target)]
        elif node.op != "output":
            values[node] = copy.node_copy(node, values.__getitem__)
    outputs: Any = graph.graph.output_node().args[0]
    results = {name: values[node] for name, node in outputs.items()}
    copy.output(tuple(results.values()))
    users = [node for node in copy.find_nodes(op="placeholder") if node not in buffers]
    signature = ExportGraphSignature(
        [
            *(InputSpec(InputKind.BUFFER, TensorArgument(node.name), name, True) for node, name in buffers.items()),
            *(InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in users),
        ],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results.values()],
    )
    given: tuple[tuple[()], dict[str, Any]] = ((), {str(node.target): inputs[str(node.target)] for node in users})
    call = ModuleCallSignature([], [], pytree.tree_structure(given), pytree.tree_structure(results), list(given[1]))
    return ExportedProgram(
        root=torch.nn.Module(),
        graph=copy,
        graph_signature=signature,
        state_dict={name: getattr(graph, name) for name in tensors},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=given,
    )
