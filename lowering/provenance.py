"""Provenance: every operation of a file says which module of the model it comes from.

The name of its first result begins with the module's path, `model/layers/0/mlp;`. The model as a whole is `/`, and
what the frame adds, as masks and positions, is `autoconvert`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from autoconvert.ir.provenance import module_path
from autoconvert.ir.weight import Weight

FRAME, ROOT = "autoconvert", "/"
_END = b";"


def locate(graph: fx.Graph) -> None:
    """Names each node's module, and nothing else, where the converter looks for a location."""
    for node in graph.nodes:
        # A table belongs to who reads it: what made it is lost on the way to another process.
        path = module_path(next(iter(node.users), node) if node.op == "get_attr" else node)
        told = FRAME if path is None else path.replace(".", "/") or ROOT
        node.meta["nn_module_stack"] = {"": ("", told)}


def name_operations(model: Any, weights: Mapping[str, Weight]) -> None:
    """Names the results of a `ModelT`'s operations; those that the converter added belong to who reads them."""
    made = {id(g.tensors[i]) for g in model.subgraphs for operator in g.operators for i in operator.outputs}
    taken = {tensor.name for g in model.subgraphs for tensor in g.tensors if id(tensor) not in made}
    numbers: Counter[bytes] = Counter()
    callers: dict[int, bytes] = {}
    for index, subgraph in enumerate(model.subgraphs):
        modules = _modules_of(subgraph, weights, callers.get(index, FRAME.encode()))
        for operator, module in zip(subgraph.operators, modules, strict=True):
            for called in _called(operator):
                callers.setdefault(called, module)
            for output in operator.outputs:
                tensor = subgraph.tensors[output]
                # What the converter did not name by a location is unique, as the results of signatures are.
                rest = tensor.name if _END not in tensor.name else b""
                while not rest or module + _END + rest in taken:
                    numbers[module] += 1
                    rest = b"%d" % numbers[module]
                tensor.name = module + _END + rest
                taken.add(tensor.name)


def _modules_of(subgraph: Any, weights: Mapping[str, Weight], caller: bytes) -> list[bytes]:
    """The module of each operator; one that has none is who reads its result, who made its operand, or `caller`."""
    told = [_told(subgraph, operator, weights) for operator in subgraph.operators]
    reader: dict[int, bytes] = {}
    for operator, module in reversed(list(zip(subgraph.operators, told, strict=True))):
        known = module or next((reader[i] for i in operator.outputs if i in reader), None)
        if known:
            reader.update((i, known) for i in operator.inputs)
    maker: dict[int, bytes] = {}
    found = []
    for operator, module in zip(subgraph.operators, told, strict=True):
        known = module or next((reader[i] for i in operator.outputs if i in reader), None)
        known = known or next((maker[i] for i in operator.inputs if i in maker), caller)
        maker.update((i, known) for i in operator.outputs)
        found.append(known)
    return found


def _told(subgraph: Any, operator: Any, weights: Mapping[str, Weight]) -> bytes | None:
    """The module that the converter names; of several, where it has merged operations, the one whose weight is read."""
    name = subgraph.tensors[operator.outputs[0]].name
    if _END not in name:
        return None
    # Where another signature has the same name, its own comes first.
    name = name.removeprefix(subgraph.name + b"/")
    modules = [part for part in name.split(_END) if part]
    for index in operator.inputs:
        weight = weights.get(subgraph.tensors[index].name.decode().rpartition("/")[2]) if index >= 0 else None
        owner = weight.sources[0].rpartition(".")[0].replace(".", "/").encode() if weight else b""
        if any(owner == module or owner.startswith(module + b"/") for module in modules):
            return owner
    return modules[0]


def _called(operator: Any) -> Iterator[int]:
    """The subgraphs that an operator runs, which its options name."""
    for options in (operator.builtinOptions, operator.builtinOptions2):
        for field, value in vars(options).items() if options is not None else ():
            if "subgraph" in field.lower() and value is not None:
                yield from [value] if isinstance(value, int) else value
