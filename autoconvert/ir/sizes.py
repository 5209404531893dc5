"""Sizes as they are compared: s²//s, which PyTorch infers where it flattens and unflattens two axes, is s."""

import operator
from typing import Any

import sympy
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._sympy.functions import FloorDiv


def expression_of(size: Any) -> Any:
    """What a size, or a number computed from sizes, is in symbols; a plain number is itself."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def without_quotients(value: Any) -> Any:
    """The same fake value, or values: where a quotient in a size leaves no remainder, it is written as what it is."""
    if isinstance(value, tuple | list):
        return type(value)(map(without_quotients, value)) if type(value) in (tuple, list) else value
    if isinstance(value, torch.SymInt):
        return _size(value)
    if not isinstance(value, FakeTensor):
        return value
    recorded = list(value.shape)
    sizes = [_size(size) for size in recorded]
    if all(map(operator.is_, sizes, recorded)):
        return value
    with value.fake_mode:
        same: Tensor = value.new_empty(sizes)
    return same


def _size(size: int | torch.SymInt) -> int | torch.SymInt:
    if not isinstance(size, torch.SymInt) or not size.node.expr.has(FloorDiv):
        return size
    expression = size.node.expr.replace(FloorDiv, _quotient)
    if expression == size.node.expr:
        return size
    if expression.is_Integer:
        return int(expression)
    return size.node.shape_env.create_symintnode(expression, hint=size.node.hint)


def _quotient(dividend: sympy.Basic, divisor: sympy.Basic) -> sympy.Basic:
    exact = sympy.cancel(dividend / divisor)
    return exact if exact.is_integer else FloorDiv(dividend, divisor)
