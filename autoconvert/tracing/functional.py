"""A functional graph: what torch.export traces, without contexts around parts of it and without writes.

`ExportedProgram.run_decompositions` does the same for every model and costs twice what tracing costs. Most models only
have a `no_grad` around their position tables, which a graph without gradients does not need, and write into tensors
that they have just made.
"""

import torch
from torch import fx
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram

from autoconvert.ir.editing import inline
from autoconvert.tracing.writes import without_writes

# The operands that come before the body, and the body's own operands after it.
_CONTEXTS = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The same program as one graph of operations that write nothing."""
    _inline_contexts(exported.graph_module)
    is_functional = not any(map(_has_a_body, exported.graph.nodes)) and without_writes(exported.graph)
    exported.graph_module.recompile()
    if is_functional:
        return exported
    return exported.run_decompositions({})


def _inline_contexts(module: fx.GraphModule) -> None:
    """Replaces calls of a body under no_grad, or under a switched-off autocast, by the body."""
    for node in list(module.graph.nodes):
        if node.target not in _CONTEXTS or _casts(node):
            continue
        before = _CONTEXTS[node.target]
        body = getattr(module, node.args[before].target)
        _inline_contexts(body)
        names = [str(placeholder.target) for placeholder in body.graph.find_nodes(op="placeholder")]
        operands = dict(zip(names, node.args[before + 1 :], strict=True))
        with module.graph.inserting_before(node):
            results = inline(module.graph, body.graph, operands)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def _has_a_body(node: fx.Node) -> bool:
    return isinstance(node.target, HigherOrderOperator)


def _casts(node: fx.Node) -> bool:
    return node.target is torch.ops.higher_order.wrap_with_autocast and bool(node.args[2])
