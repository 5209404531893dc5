"""Provenance: the module, the source line and the fused block that a node comes from."""

import re
from typing import Any

from torch import fx

# Where a node says which fused block it belongs to.
BLOCK = "block"
# The line of a pattern from outside that it was made by, as `file:line: code`.
WRITTEN = "written"

_PROVENANCE = ("stack_trace", "nn_module_stack", BLOCK, WRITTEN)


def provenance_of(node: fx.Node) -> dict[str, Any]:
    """What a new node that stands for `node` begins its metadata with."""
    return {key: node.meta[key] for key in _PROVENANCE if key in node.meta}


def inlined_provenance(node: fx.Node, like: fx.Node) -> dict[str, Any]:
    """What the copy of `node`, of a body, begins its metadata with where it stands for a part of `like`."""
    written = node.meta.get(WRITTEN)
    return provenance_of(like) | ({WRITTEN: written} if written else {})


def operation_name(node: fx.Node) -> str:
    """What a node computes, as people call it."""
    return str(node.target).removeprefix("aten.").removesuffix(".default").removesuffix(".Tensor")


def short_name(node: fx.Node) -> str:
    """The name of a called operation alone, without its namespace and overload: `add`, `rms_norm`, `getitem`."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).partition("::")[2] if schema else str(getattr(node.target, "__name__", node.target))


def operation_in_module(node: fx.Node) -> str:
    """What a node computes and in which module: `linear in model.layers.0.mlp`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()] if stack else []
    path = paths[-1].split("decoder.")[-1] if paths else ""
    operation = operation_name(node)
    return f"{operation} in {path}" if path else operation


def location(node: fx.Node) -> str:
    """The place a node came from: operation, module path and source line, for messages.

    What a pattern from outside has made comes from its line, in the place of the model's.
    """
    place, line, written = operation_in_module(node), source_line(node), node.meta.get(WRITTEN)
    if written:
        line = f"{written}, in the place of {line.partition(': ')[0]}" if line else written
    return f"{place} ({line})" if line else place


def named(node: fx.Node) -> str:
    """The node's own name and its place in the model, as the beginning of a sentence about it."""
    return f"{node.name}, {location(node)},"


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
