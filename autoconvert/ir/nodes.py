"""Reading nodes: a node's operands by position and by name, and the shape and type of its value."""

from collections.abc import Mapping
from typing import Any, TypeGuard

import sympy
import torch
from torch import Tensor, fx
from torch._ops import OpOverload


def shape(node: fx.Node) -> tuple[int | torch.SymInt, ...]:
    """The shape of a node's value; () where it is no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments, as what they are rather than as all that they could be."""
    return tuple(node.args)


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Every argument of an operation by its name in the schema, in its order; the default where none is given."""
    schema = overload(node)._schema
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema.arguments}


def named_results(graph: fx.Graph) -> dict[str, fx.Node]:
    """What a program's graph returns, by name."""
    (results,) = graph.output_node().args
    assert isinstance(results, dict)
    return dict(results)


def first_operand(node: fx.Node) -> fx.Node:
    """The first argument of an operation on a tensor."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def frozen(value: Any) -> Any:
    """Arguments as something that can be hashed; equal numbers of different types stay apart, as 0.0 and −0.0."""
    if isinstance(value, list | tuple):
        return tuple(frozen(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, frozen(v)) for k, v in sorted(value.items()))
    if isinstance(value, float):
        return (float, value.hex())
    return (type(value), value) if isinstance(value, bool | int) else value


def overload(node: fx.Node) -> OpOverload:
    """The operation that a node calls."""
    assert isinstance(node.target, OpOverload)
    return node.target


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    return _key(shape(a)) == _key(shape(b))


def _key(sizes: tuple[int | torch.SymInt, ...]) -> tuple[str, ...]:
    return tuple(str(size) for size in sizes)


def is_symbolic(size: int | torch.SymInt) -> TypeGuard[torch.SymInt]:
    return isinstance(size, torch.SymInt)


def concrete(size: int | torch.SymInt, values: int | Mapping[sympy.Symbol, int]) -> int:
    """A size with each symbol set to its value, or all of them to one."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = expression.free_symbols
    return int(expression.subs(dict.fromkeys(symbols, values) if isinstance(values, int) else values))


def type_key(value: Any) -> str:
    """Shape and dtype as text: equal for values that no rewrite could tell apart."""
    if isinstance(value, Tensor):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    return repr(value)
