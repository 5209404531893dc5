"""Editing graphs: every new node knows the type of its value and where it comes from."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from autoconvert.ir.nodes import named_arguments
from autoconvert.ir.provenance import WRITTEN, inlined_provenance, provenance_of
from autoconvert.ir.sizes import without_quotients
from autoconvert.ir.types import type_of

aten = torch.ops.aten

Argument = Any


def _padded(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    sizes = list(x.shape)
    for axis, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True), 1):
        sizes[-axis] = sizes[-axis] + before + after
    return x.new_empty(sizes)


# Operations of which PyTorch's own inference makes numbers of all symbols.
_INFERRED_BY: dict[Any, Callable[..., Any]] = {aten.constant_pad_nd.default: _padded}


def emit(graph: fx.Graph, target: Callable[..., Any], *args: Argument, like: fx.Node, **kwargs: Argument) -> fx.Node:
    """Inserts a call at the graph's insertion point; shape and dtype are inferred, the origin is that of `like`."""
    node = graph.call_function(target, args, kwargs)
    node.meta = provenance_of(like)
    node.meta["val"] = infer(node)
    return node


def add_constant(owner: fx.GraphModule, name: str, value: Tensor, like: fx.Node) -> fx.Node:
    """A new constant that `owner` holds, at the insertion point of its graph."""
    owner.register_buffer(name, value.contiguous())
    constant = owner.graph.get_attr(name)
    constant.meta = dict(like.meta)
    constant.meta["val"] = like.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
    return constant


def infer(node: fx.Node) -> Any:
    """The fake value of a call, from the fake values of its arguments."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    assert callable(node.target)
    with fake_mode_of(node) or nullcontext(), torch.no_grad():
        return without_quotients(_INFERRED_BY.get(node.target, node.target)(*args, **kwargs))


def renew(node: fx.Node) -> bool:
    """Infers the value of a call again, from operands that have another type by now; says whether it has one too."""
    before = type_of(node.meta["val"])
    node.meta["val"] = infer(node)
    return type_of(node.meta["val"]) != before


def fake_mode_of(node: fx.Node) -> FakeTensorMode | None:
    """The mode of the fake tensors that a call is computed from; None where they are none."""
    tensors = [n.meta["val"] for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)]
    # What is computed from sizes alone belongs to the fake tensors of the graph's inputs.
    inputs = (n.meta.get("val") for n in node.graph.nodes if n.op == "placeholder")
    mode: FakeTensorMode | None = detect_fake_mode(
        tensors or [next((value for value in inputs if isinstance(value, Tensor)), None)]
    )
    return mode


def replace(node: fx.Node, new: fx.Node) -> None:
    """Every use of `node` becomes a use of `new`, and `node` goes."""
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def replace_by_results(node: fx.Node, results: Any) -> None:
    """As `replace`, by one node or, where `node` has several results that its users pick, by a node for each."""
    if isinstance(results, fx.Node):
        replace(node, results)
        return
    for user in list(node.users):
        replace(user, results[user.args[1]])
    node.graph.erase_node(node)


def set_arguments(node: fx.Node, **changes: Argument) -> None:
    """Changes arguments of an operation by their names; all of them then stand by position."""
    node.args, node.kwargs = tuple((named_arguments(node) | changes).values()), {}


def finish(graph: fx.GraphModule) -> fx.GraphModule:
    """Drops what nobody uses, checks the graph's form, and makes it callable again."""
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in graph.named_buffers() if name not in used]:
        delattr(graph, name)
    graph.recompile()
    return graph


def inline(graph: fx.Graph, body: fx.Graph, inputs: dict[str, Argument], like: fx.Node | None = None) -> Any:
    """Copies `body` to the insertion point with its placeholders replaced by `inputs`; gives what it returns.

    The copies come from where `like` came from, or where the originals did.
    """
    values: dict[fx.Node, Any] = {}
    for node in body.nodes:
        if node.op == "placeholder":
            values[node] = inputs[str(node.target)]
        elif node.op == "output":
            return fx.map_arg(node.args[0], lambda n: values[n])
        else:
            copy = graph.node_copy(node, lambda n: values[n])
            copy.meta = provenance_of(node) if like is None else inlined_provenance(node, like)
            copy.meta["val"] = node.meta["val"]
            values[node] = copy
    raise AssertionError("a graph ends in its output")


def traced(
    function: Callable[..., Any],
    values: dict[str, Any],
    definitions: dict[OpOverload, Callable[..., Any]] | None = None,
) -> fx.GraphModule:
    """The graph of `function` called with fake `values` by name, semantic operations kept as nodes.

    With `definitions` the operations in it are decomposed, and those that PyTorch composes of others as well.
    """
    names = list(values)
    fakes = [value for value in values.values() if isinstance(value, Tensor)]
    mode = detect_fake_mode(fakes)

    def call(*args: Any) -> Any:
        return function(**dict(zip(names, args, strict=True)))

    with mode, torch.no_grad():  # type: ignore[union-attr]
        # One fake value may stand for several nodes, and tracing tells arguments apart by identity.
        distinct = [value.clone() if isinstance(value, Tensor) else value for value in values.values()]
        graph = make_fx(call, definitions, pre_dispatch=definitions is None)(*distinct)
    for node, name in zip(graph.graph.find_nodes(op="placeholder"), names, strict=True):
        node.target = name
    for node in graph.graph.nodes:
        # Where fx.traceback.annotate puts what a function tells of its operations.
        if WRITTEN in (told := node.meta.get("custom") or {}):
            node.meta[WRITTEN] = told[WRITTEN]
    return graph
