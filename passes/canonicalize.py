"""Canonicalize: what people write in many ways becomes one way, so that one pattern covers it.

Nothing here knows a building block. Casts to the same type, copies and operations that change no value go;
arguments that equal their defaults are left out; axes count from the end; products with matrices are linear.
"""

import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from autoconvert.analysis.invariants import NO_ASSERTIONS
from autoconvert.analysis.op_traits import ASSERTIONS, is_reduction
from autoconvert.ir.editing import finish, infer
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import arguments, first_operand, frozen, shape
from autoconvert.ir.program import Program
from autoconvert.ir.types import type_of
from autoconvert.passes.canonicalization import TABLE
from autoconvert.passes.canonicalization.complex_numbers import real_pairs
from autoconvert.rewrite.pass_manager import Options, Pass
from autoconvert.rewrite.rule import OnRewrite
from autoconvert.rewrite.worklist import Worklist

aten = torch.ops.aten

_COMPUTED_IN_A_TYPE = {aten.softmax.int, aten.log_softmax.int, aten.mean.dim, aten.sum.dim_IntList}
_COUNTED = (Role.TOKENS, Role.POSITIONS, Role.OFFSET, Role.INPUT_POS)
_SAY_NOTHING = {"device", "layout", "pin_memory", "non_blocking", "memory_format", "cudnn_enable"}


def canonicalize(
    graph: fx.GraphModule,
    weights: Collection[str] = (),
    on_rewrite: OnRewrite = lambda *_: None,
    counted: Collection[str] = (),
) -> fx.GraphModule:
    """Rewrites `graph` in place to the canonical form that patterns are traced to as well.

    `weights` are the placeholders that are parameters, by name, and `counted` those of tokens and positions.
    `on_rewrite` sees each application of a rule.
    """
    real_pairs(graph)
    for node in list(graph.graph.nodes):
        if node.target in ASSERTIONS:
            graph.graph.erase_node(node)
    worklist = Worklist(graph.graph, TABLE, weights, on_rewrite, _explicit_arguments, counted)
    worklist.add(graph.graph.nodes)
    while worklist.run():
        _share_equal_nodes(graph.graph, worklist.replace)
    return finish(graph)


def _explicit_arguments(node: fx.Node) -> None:
    """Positional up to the last argument that is not its default, the rest by keyword; axes from the end."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return
    operation = node.target
    schema = operation._schema
    given = dict(zip((a.name for a in schema.arguments), arguments(node), strict=False)) | dict(node.kwargs)
    if schema.name == "aten::scaled_dot_product_attention" and given.get("scale") is None:
        given["scale"] = float(shape(arguments(node)[0])[-1]) ** -0.5
    if schema.name == "aten::rms_norm" and given.get("eps") is None:
        given["eps"] = torch.finfo(node.meta["val"].dtype).eps
    # Patterns capture numbers, so those stand in the graph even where they are the default.
    given = {a.name: a.default_value for a in schema.arguments if isinstance(a.default_value, float)} | given
    if node.target in _COMPUTED_IN_A_TYPE and given.get("dtype") == first_operand(node).meta["val"].dtype:
        given["dtype"] = None
    rank = _rank_of_axes(node)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    positional = True
    for argument in schema.arguments:
        default = argument.default_value
        is_axis = bool(rank) and argument.name in ("dim", "dims", "dim0", "dim1")
        # An axis stands there even where it is the default, which counts from the front or from the end.
        value = given.get(argument.name, default)
        if not (is_axis and value is not None) and (argument.name not in given or _is_default(value, argument)):
            positional = False
            continue
        if is_axis:
            value = _from_the_end(value, rank)
            if is_reduction(operation) and isinstance(value, list):
                value = sorted(value)
        if positional and not argument.kwarg_only:
            args.append(value)
        else:
            kwargs[argument.name] = value
    node.args, node.kwargs = tuple(args), kwargs


def _is_default(value: Any, argument: Any) -> bool:
    if not argument.has_default_value() or isinstance(value, fx.Node):
        return False
    if argument.name in _SAY_NOTHING:
        return True
    default = argument.default_value
    return type(value) is type(default) and not isinstance(default, float) and bool(value == default)


def _rank_of_axes(node: fx.Node) -> int:
    if node.target is aten.tile.default:
        return 0  # Its `dims` are counts.
    if node.target is aten.unsqueeze.default:
        return len(shape(node))
    if node.target in (aten.cat.default, aten.stack.default):
        return len(shape(node))
    first = arguments(node)[0] if arguments(node) else None
    return len(shape(first)) if isinstance(first, fx.Node) else 0


def _from_the_end(axis: Any, rank: int) -> Any:
    if isinstance(axis, list | tuple):
        return [_from_the_end(a, rank) for a in axis]
    return axis - rank if isinstance(axis, int) and axis >= 0 else axis


def _share_equal_nodes(graph: fx.Graph, replace: Callable[[fx.Node, fx.Node], None]) -> None:
    """Common subexpressions are one node: the same operation on the same operands, once."""
    seen: dict[Any, fx.Node] = {}
    # A size that depends on values has another symbol in each of two equal nodes.
    stale: set[fx.Node] = set()
    for node in list(graph.nodes):
        key = _value_key(node)
        if key is None:
            continue
        if node in stale:
            before = type_of(node.meta["val"])
            node.meta["val"] = infer(node)
            if type_of(node.meta["val"]) != before:
                stale.update(node.users)
        first = seen.setdefault(key, node)
        if first is not node:
            if type_of(first.meta["val"]) != type_of(node.meta["val"]):
                stale.update(node.users)
            replace(node, first)


def _value_key(node: fx.Node) -> Any:
    if node.op != "call_function" or not (
        node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)
    ):
        return None
    return (node.target, frozen(arguments(node)), frozen(node.kwargs))


def _run(program: Program, options: Options) -> Program:
    counted = {name for name, role in program.roles.items() if role in _COUNTED}
    return program.with_graph(canonicalize(program.graph, program.weights, options.on_rewrite, counted))


PASS = Pass(
    "canonicalize",
    "What people write in many ways becomes one way, so that one pattern covers it.",
    _run,
    ensures=(NO_ASSERTIONS,),
)
