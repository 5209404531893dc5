"""Constants: what a graph holds, or computes of nothing else, as numbers."""

import hashlib
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from autoconvert.analysis.op_traits import is_random
from autoconvert.ir.nodes import named_arguments

aten = torch.ops.aten

# What takes more operations than this is not looked at: it is a small table that decides what a block is.
_OPERATIONS = 32
# Of a number, relative to it, in units of what its type resolves.
_ROUNDING = 4
_FILLED_WITH = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), 0),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), 1),
}


def held_value(node: fx.Node) -> Tensor | None:
    """The tensor that the graph itself holds at `node`."""
    module = node.graph.owning_module
    value = getattr(module, str(node.target), None) if node.op == "get_attr" and module is not None else None
    return value if isinstance(value, Tensor) and not isinstance(value, FakeTensor) else None


def constant_value(node: fx.Node) -> Tensor | None:
    """What `node` is whatever the inputs and the weights are; None where they decide it, or chance does."""
    needed: dict[fx.Node, None] = {}
    pending = [node]
    while pending:
        current = pending.pop()
        is_open = current.op != "call_function" and held_value(current) is None
        if len(needed) > _OPERATIONS or is_random(current.target) or is_open:
            return None
        if current not in needed:
            needed[current] = None
            pending.extend(current.all_input_nodes)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for each in sorted(needed):
            args, kwargs = fx.map_arg((each.args, each.kwargs), lambda n: values[n])
            values[each] = each.target(*args, **kwargs) if callable(each.target) else held_value(each)
    value = values[node]
    return value if isinstance(value, Tensor) else None


def is_filled(node: fx.Node, number: float) -> bool:
    """Whether all entries are known to be `number`, however many there are."""
    if node.target in _FILLED_WITH:
        return _FILLED_WITH[node.target] == number
    if node.target in (aten.full.default, aten.full_like.default, aten.new_full.default):
        return bool(named_arguments(node)["fill_value"] == number)
    value = constant_value(node)
    return value is not None and bool((value == number).all())


def content(value: Tensor) -> memoryview:
    """The bytes of a tensor of any type, in its order."""
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def same_constant(a: Tensor, b: Tensor) -> bool:
    """Whether no operation could tell two constants apart: equal type, shape and bits, so that −0.0 is not 0.0."""
    return a.dtype == b.dtype and a.shape == b.shape and content(a) == content(b)


def same_but_for_rounding(a: Tensor, b: Tensor) -> bool:
    """Whether no number differs by more than a few units of its last place: types, shapes, signs, infinities are equal.

    PyTorch computes most of a tensor several numbers at a time and what is left by other code, which may round
    otherwise; a number's place in its tensor decides which.
    """
    if a.dtype != b.dtype or a.shape != b.shape or not a.dtype.is_floating_point:
        return False
    rounding = _ROUNDING * torch.finfo(a.dtype).eps
    return torch.equal(a.signbit(), b.signbit()) and torch.allclose(a, b, rtol=rounding, atol=0.0, equal_nan=True)


def digest(value: Tensor) -> str:
    """Short, and equal for equal numbers of one type and shape."""
    return hashlib.sha256(f"{value.dtype}{list(value.shape)}".encode() + content(value)).hexdigest()[:12]
