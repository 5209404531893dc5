"""Provenance: every operation of a file says which module of the model it comes from, and which node of the graph.

The converter is told both as a location, which it makes a part of names; the linker makes them names of one form.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from autoconvert.ir.provenance import module_path, short_name
from autoconvert.ir.weight import Weight
from autoconvert.lowering.operation_names import END, FRAME, NODE, ROOT

_END, _NODE = END.encode(), NODE.encode()


@dataclass(frozen=True)
class _Origin:
    """The path of a module, and the node where it is known."""

    module: bytes
    node: bytes = b""


def node_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """A name for each node by its operation and its place among those: what a graph calls it differs by process."""
    counts: Counter[str] = Counter()
    names = {}
    for node in graph.nodes:
        operation = short_name(node) if node.op == "call_function" else node.op
        names[node] = f"{operation}_{counts[operation]}"
        counts[operation] += 1
    return names


def locate(graph: fx.Graph) -> None:
    """Names each node and its module, and nothing else, where the converter looks for a location."""
    for node, name in node_names(graph).items():
        # A table belongs to who reads it: what made it is lost on the way to another process.
        path = module_path(next(iter(node.users), node) if node.op == "get_attr" else node)
        told = FRAME if path is None else path.replace(".", "/") or ROOT
        node.meta["nn_module_stack"] = {"": ("", f"{told}{NODE}{name}")}


def name_operations(model: Any, weights: Mapping[str, Weight]) -> None:
    """Names the results of a `ModelT`'s operations; those that the converter added belong to who reads them."""
    made = {id(g.tensors[i]) for g in model.subgraphs for operator in g.operators for i in operator.outputs}
    taken = {tensor.name for g in model.subgraphs for tensor in g.tensors if id(tensor) not in made}
    numbers: Counter[bytes] = Counter()
    callers: dict[int, bytes] = {}
    for index, subgraph in enumerate(model.subgraphs):
        origins = _origins_of(subgraph, weights, callers.get(index, FRAME.encode()))
        for operator, of in zip(subgraph.operators, origins, strict=True):
            for called in _called(operator):
                callers.setdefault(called, of.module)
            for output in operator.outputs:
                tensor = subgraph.tensors[output]
                # What the converter did not name by a location is unique, as the results of signatures are.
                rest = tensor.name if _END not in tensor.name else of.node
                base = of.module + _END + rest
                name = base if rest else b""
                while not name or name in taken:
                    numbers[base] += 1
                    name = base + (b"." if rest else b"") + b"%d" % numbers[base]
                tensor.name = name
                taken.add(name)


def _origins_of(subgraph: Any, weights: Mapping[str, Weight], caller: bytes) -> list[_Origin]:
    """Where each operator comes from; the module of one that says nothing is who reads its result, who made its
    operand, or `caller`."""
    told = [_told(subgraph, operator, weights) for operator in subgraph.operators]
    reader: dict[int, bytes] = {}
    for operator, own in reversed(list(zip(subgraph.operators, told, strict=True))):
        known = own.module if own else next((reader[i] for i in operator.outputs if i in reader), None)
        if known:
            reader.update((i, known) for i in operator.inputs)
    maker: dict[int, bytes] = {}
    found = []
    for operator, own in zip(subgraph.operators, told, strict=True):
        known = own.module if own else next((reader[i] for i in operator.outputs if i in reader), None)
        known = known or next((maker[i] for i in operator.inputs if i in maker), caller)
        maker.update((i, known) for i in operator.outputs)
        found.append(own or _Origin(known))
    return found


def _told(subgraph: Any, operator: Any, weights: Mapping[str, Weight]) -> _Origin | None:
    """What the converter names; of several, where it has merged operations, the one whose weight is read.

    A result of a signature is named as that: only a weight that is read says whose it is.
    """
    name = subgraph.tensors[operator.outputs[0]].name
    # Where another signature has the same name, its own comes first.
    name = name.removeprefix(subgraph.name + b"/")
    merged = [_Origin(*part.split(_NODE, 1)) for part in name.split(_END) if _NODE in part]
    for index in operator.inputs:
        weight = weights.get(subgraph.tensors[index].name.decode().rpartition("/")[2]) if index >= 0 else None
        if weight is None:
            continue
        owner = weight.sources[0].rpartition(".")[0].replace(".", "/").encode()
        if not merged:
            return _Origin(owner) if owner else None
        for each in merged:
            if owner == each.module or owner.startswith(each.module + b"/"):
                return _Origin(owner, each.node)
    return merged[0] if merged else None


def _called(operator: Any) -> Iterator[int]:
    """The subgraphs that an operator runs, which its options name."""
    for options in (operator.builtinOptions, operator.builtinOptions2):
        for field, value in vars(options).items() if options is not None else ():
            if "subgraph" in field.lower() and value is not None:
                yield from [value] if isinstance(value, int) else value
