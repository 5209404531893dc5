"""Constants less, or divided by, what is transposed: written in other operations.

litert-converter 0.5.0 moves a transpose behind an operation whose other operand is constant, and puts that operand
second whatever the operation: `1 - x.T` becomes `x.T - 1`, and `1 / x.T` becomes `x.T`.
"""

import torch
from torch import fx

from autoconvert.analysis.op_traits import is_pointwise
from autoconvert.ir.editing import emit, replace
from autoconvert.ir.nodes import arguments

aten = torch.ops.aten

_TRANSPOSES = {aten.transpose.int, aten.permute.default}


def constant_operands_last(graph: fx.Graph) -> None:
    """Rewrites, in place, differences from constants as sums and quotients of constants as products."""
    constants: set[fx.Node] = set()
    transposed: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op == "get_attr" or (node.op == "call_function" and constants.issuperset(node.all_input_nodes)):
            constants.add(node)
        elif node.target in _TRANSPOSES or (
            is_pointwise(node.target) and not transposed.isdisjoint(node.all_input_nodes)
        ):
            transposed.add(node)
            _rewrite(node, constants, transposed)


def _rewrite(node: fx.Node, constants: set[fx.Node], transposed: set[fx.Node]) -> None:
    if node.target is aten.reciprocal.default:
        constant, x = 1.0, arguments(node)[0]
    elif node.target in (aten.sub.Tensor, aten.div.Tensor) and not node.kwargs:
        constant, x = arguments(node)
    else:
        return
    is_constant = constant in constants if isinstance(constant, fx.Node) else True
    if not is_constant or x not in transposed:
        return
    with node.graph.inserting_before(node):
        if node.target is aten.sub.Tensor:
            other = emit(node.graph, aten.neg.default, x, like=node)
            new = emit(node.graph, aten.add.Tensor, other, constant, like=node)
        else:
            x = (
                x
                if x.meta["val"].is_floating_point()
                else emit(node.graph, aten._to_copy.default, x, dtype=node.meta["val"].dtype, like=node)
            )
            other = emit(node.graph, aten.pow.Tensor_Scalar, x, -1.0, like=node)
            new = emit(node.graph, aten.mul.Tensor, other, constant, like=node)
    replace(node, new)
    transposed.add(new)
