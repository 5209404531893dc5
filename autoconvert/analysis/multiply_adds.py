"""Multiply-adds: how often a node of a graph multiplies and adds, by the shapes of its operands."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from autoconvert import ops
from autoconvert.ir.nodes import concrete, type_key

aten = torch.ops.aten


def _a_matrix_a_row(x: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    """As expert_linear, with products that are the same whichever experts there are."""
    return x @ weight[:width].t()


_BODIES: dict[Any, Callable[..., Any]] = {
    **ops.BODIES,
    ops.expert_linear: _a_matrix_a_row,
    # What it becomes on a processor is one operation, of which PyTorch's counter knows nothing.
    aten.scaled_dot_product_attention.default: aten._scaled_dot_product_attention_math.default,
}


class MultiplyAdds:
    """Counts the multiply-adds of matrix products and convolutions, for a sequence of `length` positions.

    Other arithmetic is not counted, nor what only the numbers decide. Nodes of the same operation and shapes are
    counted once.
    """

    def __init__(self, length: int = 1) -> None:
        self._length = length
        self._known: dict[str, int] = {}

    def __call__(self, node: fx.Node, owner: fx.GraphModule) -> int:
        function = _function(node, owner)
        if function is None:
            return 0
        operands = [type_key(n.meta.get("val")) for n in node.all_input_nodes]
        shape = fx.map_arg((node.args, node.kwargs), lambda n: n.op)
        # A scan is a module of its own in every layer.
        key = f"{node.target} {operands} {shape}"
        if key not in self._known:
            self._known[key] = self._count(function, node)
        return self._known[key]

    def _count(self, function: Callable[..., Any], node: fx.Node) -> int:
        counter = FlopCounterMode(display=False)
        with FakeTensorMode(), torch.no_grad():
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._value(n.meta["val"]))
            try:
                with counter:
                    function(*args, **kwargs)
            except (DataDependentOutputException, DynamicOutputShapeException):
                # What it multiplies is for the numbers to say, not for shapes.
                return 0
        return counter.get_total_flops() // 2

    def _value(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty([concrete(size, self._length) for size in value.shape], dtype=value.dtype)
        if isinstance(value, torch.SymInt):
            return concrete(value, self._length)
        if isinstance(value, tuple | list):
            return [self._value(part) for part in value]
        return value


def _function(node: fx.Node, owner: fx.GraphModule) -> Callable[..., Any] | None:
    """How to compute a node so that PyTorch's counter sees its products; None where it has none."""
    if node.op == "call_module":
        return owner.get_submodule(str(node.target))
    if not isinstance(node.target, OpOverload):
        return None
    if node.target in _BODIES:
        return _BODIES[node.target]
    composed = node.target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return node.target if composed or node.target._overloadpacket in flop_registry else None
