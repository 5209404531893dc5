"""How a rewrite makes nodes: every new node knows its value's shape and the source line it came from."""

import re
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx

Argument = Any

# Where a node says which recognised block it belongs to.
BLOCK = "block"

_PROVENANCE = ("stack_trace", "nn_module_stack", BLOCK)


def emit(graph: fx.Graph, target: Callable[..., Any], *args: Argument, like: fx.Node, **kwargs: Argument) -> fx.Node:
    """Inserts a call at the graph's insertion point; shape and dtype are inferred, the origin is that of `like`."""
    node = graph.call_function(target, args, kwargs)
    node.meta = {key: like.meta[key] for key in _PROVENANCE if key in like.meta}
    node.meta["val"] = infer(node)
    return node


def infer(node: fx.Node) -> Any:
    """The fake value of a call, from the fake values of its arguments."""
    values = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    tensors = [n.meta["val"] for n in node.all_input_nodes if isinstance(n.meta["val"], Tensor)]
    # What is computed from sizes alone belongs to the fake tensors of the graph's inputs.
    inputs = (n.meta.get("val") for n in node.graph.nodes if n.op == "placeholder")
    mode = detect_fake_mode(tensors or [next((value for value in inputs if isinstance(value, Tensor)), None)])
    assert callable(node.target)
    if mode is None:
        return node.target(*values[0], **values[1])
    with mode, torch.no_grad():
        return node.target(*values[0], **values[1])


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


def set_arguments(node: fx.Node, **changes: Argument) -> None:
    """Changes arguments of an operation by their names; all of them then stand by position."""
    node.args, node.kwargs = tuple((named_arguments(node) | changes).values()), {}


def named_results(graph: fx.Graph) -> dict[str, fx.Node]:
    """What a program's graph returns, by name."""
    (results,) = graph.output_node().args
    assert isinstance(results, dict)
    return dict(results)


def first_input(node: fx.Node) -> fx.Node:
    """The first argument of an operation on a tensor."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


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


def operation_name(node: fx.Node) -> str:
    """What a node computes, as people call it."""
    return str(node.target).removeprefix("aten.").removesuffix(".default").removesuffix(".Tensor")


def where(node: fx.Node) -> str:
    """The place in the model a node came from: operation, module path and source line, for messages."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()] if stack else []
    path = paths[-1].split("decoder.")[-1] if paths else ""
    operation = operation_name(node)
    place = f"{operation} in {path}" if path else operation
    line = source_line(node)
    return f"{place} ({line})" if line else place


def module_path(node: fx.Node) -> str | None:
    """The module that computed a node, as the model names it: `model.layers.0.mlp`, "" for the model as a whole.

    None for what was not computed in the model.
    """
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    if path != "decoder" and not path.startswith("decoder."):
        return None
    # A module that is called a second time is a path with a number after this sign.
    return re.sub(r"@\d+", "", path).removeprefix("decoder").removeprefix(".")


def source_line(node: fx.Node) -> str:
    """`file:line: code` of the innermost line of the model's own code, or ""."""
    trace = (node.meta.get("stack_trace") or "").strip().splitlines()
    for index in range(len(trace) - 1, -1, -1):
        text = trace[index].strip()
        if text.startswith("File "):
            file, line = text.split('"')[1], text.split("line ")[1].split(",")[0]
            code = trace[index + 1].strip() if index + 1 < len(trace) else ""
            return f"{file}:{line}: {code}"
    return ""


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
            origin = like if like is not None else node
            copy.meta = {key: origin.meta[key] for key in _PROVENANCE if key in origin.meta}
            copy.meta["val"] = node.meta["val"]
            values[node] = copy
    raise AssertionError("a graph ends in its output")


def traced(
    function: Callable[..., Any],
    values: dict[str, Any],
    definitions: dict[OpOverload, Callable[..., Any]] | None = None,
) -> fx.GraphModule:
    """The graph of `function` called with fake `values` by name, semantic operations kept as nodes.

    With `definitions` the operations in it are written out, and those that PyTorch composes of others as well.
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
    return graph


def concrete(size: int | torch.SymInt, length: int) -> int:
    """A size with the sequence symbol set to `length`."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, length)))


def structure(value: Any) -> str:
    """Shape and dtype as text: equal for values that no rewrite could tell apart."""
    if isinstance(value, Tensor):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    return repr(value)
