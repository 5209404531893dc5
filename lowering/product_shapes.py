"""FULLY_CONNECTED gives the shape that the runtime computes, and a RESHAPE behind it the one that is declared.

litert-converter 0.5.0 folds reshapes beside a product with weights into it where the last axis stays. The runtime takes
the other axes of the result from the operand all the same, so that what reads it may meet other axes than it expects.
"""

from math import prod
from typing import Any

from autoconvert.lowering.flatbuffer import read_model, write_model
from autoconvert.lowering.subgraph import Subgraph


def products_as_declared(content: bytes) -> bytes:
    """The flatbuffer with a RESHAPE wherever a product's result is declared in another shape than it has."""
    model = read_model(content)
    changed = [_mended(Subgraph(model, subgraph)) for subgraph in model.subgraphs]
    return write_model(model) if any(changed) else content


def _mended(graph: Subgraph) -> bool:
    operators: list[Any] = []
    readers, outputs = graph.readers, set(map(int, graph.subgraph.outputs))
    for operator in graph.operators:
        operators.append(operator)
        if graph.kind(operator) != "FULLY_CONNECTED":
            continue
        result = int(operator.outputs[0])
        made, declared = _made(graph, operator), graph.shapes[result]
        # A reshape takes it in any shape.
        is_reshaped = result not in outputs and all(graph.kind(reader) == "RESHAPE" for reader, _ in readers[result])
        if made != declared and not is_reshaped:
            whole = graph.add_tensor(made, graph.subgraph.tensors[result].type)
            operator.outputs = [whole]
            operators.append(graph.operator("RESHAPE", [whole, graph.add_constant(declared)], result))
    is_changed = len(operators) > len(graph.operators)
    graph.subgraph.operators = operators
    return is_changed


def _made(graph: Subgraph, product: Any) -> tuple[int, ...]:
    """The shape of what the runtime computes: [.., width] of [.., depth], or one axis for all but the last."""
    x, weight = (graph.shapes[int(index)] for index in product.inputs[:2])
    if product.builtinOptions.keepNumDims:
        return (*x[:-1], weight[0])
    return (prod(x) // weight[1], weight[0])
