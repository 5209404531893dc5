"""A snapshot: a program after one pass as plain data, from which every file of a dump is written."""

import hashlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from autoconvert.analysis.constants import digest
from autoconvert.analysis.multiply_adds import MultiplyAdds
from autoconvert.dump.entry import Entry, Type, short_dtype
from autoconvert.dump.naming import Namer, operation_of
from autoconvert.dump.places import module_of, place_of, written_at
from autoconvert.ir.nodes import named_results
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import BLOCK
from autoconvert.ir.weight import Weight

# Names of arguments that may be numbers and say nothing.
_OPERANDS = frozenset({"self", "other", "input"})
# Up to so many numbers a constant is shown whole.
_SHORT = 8


@dataclass(frozen=True)
class Snapshot:
    """The entries of a program's graph in its order, the output left out, and the program."""

    entries: tuple[Entry, ...]
    program: Program


class Photographer:
    """Takes snapshots of one program on its way; names last from one to the next.

    `sizes` are the bytes of the model's tensors by their names; `errors` those of replaced regions by the name of
    their last node.
    """

    def __init__(self, sizes: Mapping[str, int], errors: Mapping[str, float]) -> None:
        self._sizes, self._errors = sizes, errors
        self._namer = Namer()
        self._multiply_adds = MultiplyAdds()

    def __call__(self, program: Program) -> Snapshot:
        graph = program.graph.graph
        names = self._namer(graph)
        symbols = symbols_of(graph)
        results = _results_by_node(graph)
        owners = _owners(graph)
        entries = []
        for node in graph.nodes:
            if node.op == "output":
                continue
            weight = program.weights.get(str(node.target)) if node.op == "placeholder" else None
            block = node.meta.get(BLOCK)
            entries.append(
                Entry(
                    name=names[node],
                    operation=operation_of(node),
                    module=_module(node, weight, owners),
                    arguments=arguments_of(node, names, symbols, by_name=True),
                    inputs=_inputs(node, names),
                    types=types_of(node.meta.get("val"), symbols),
                    results=results.get(node, ()),
                    detail=_detail(node, weight, program),
                    place=place_of(node),
                    written=written_at(node),
                    pattern=block.pattern if block else "",
                    block=block.block if block else "",
                    error=self._errors.get(block.output) if block else None,
                    multiply_adds=self._multiply_adds(node, program.graph),
                    size=sum(self._read(source, program) for source in node.all_input_nodes),
                    node_name=node.name,
                    role=program.roles.get(str(node.target)) if node.op == "placeholder" else None,
                )
            )
        return Snapshot(tuple(entries), program)

    def _read(self, node: fx.Node, program: Program) -> int:
        weight = program.weights.get(str(node.target)) if node.op == "placeholder" else None
        return sum(self._sizes.get(source, 0) for source in weight.sources) if weight else 0


def symbols_of(graph: fx.Graph) -> dict[Any, str]:
    """Names of symbolic sizes in the order in which they appear: `s`, then `s2`, `s3`."""
    found: dict[Any, str] = {}
    for node in graph.nodes:
        for value in _flat(node.meta.get("val")):
            for size in value.shape if isinstance(value, Tensor) else [value]:
                if isinstance(size, torch.SymInt):
                    for symbol in sorted(size.node.expr.free_symbols, key=str):
                        found.setdefault(symbol, f"s{len(found) + 1}" if found else "s")
    return found


def types_of(value: Any, symbols: Mapping[Any, str]) -> tuple[Type, ...]:
    return tuple(_type(part, symbols) for part in _flat(value))


def arguments_of(
    node: fx.Node, names: Mapping[fx.Node, str], symbols: Mapping[Any, str], sign: str = "%", by_name: bool = False
) -> str:
    """The arguments as they are written in a call, `sign` before the names of nodes.

    `by_name`, those that are no operands are called what the operation's schema calls them, and so are all behind them.
    """

    def written(value: Any) -> str:
        if isinstance(value, fx.Node):
            return sign + names[value]
        if isinstance(value, list):
            return f"[{', '.join(map(written, value))}]"
        if isinstance(value, tuple):
            return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key!r}: {written(part)}" for key, part in value.items()) + "}"
        if isinstance(value, slice):
            return f"slice({written(value.start)}, {written(value.stop)}, {written(value.step)})"
        if isinstance(value, torch.SymInt):
            return size_text(value, symbols)
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return f'float("{value}")'
        if isinstance(value, torch.device):
            return f'torch.device("{value}")'
        return repr(value)

    if node.op in ("placeholder", "get_attr"):
        return ""
    keys = _names_of_arguments(node) if by_name else [""] * len(node.args)
    given = [*zip(keys, node.args, strict=True), *node.kwargs.items()]
    return ", ".join(f"{key}={written(value)}" if key else written(value) for key, value in given)


def _names_of_arguments(node: fx.Node) -> list[str]:
    """A name for each positional argument, "" for the operands before the first that is none."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return [""] * len(node.args)
    names = [argument.name for argument in schema.arguments[: len(node.args)]]
    operands = [name in _OPERANDS or _is_of_nodes(value) for name, value in zip(names, node.args, strict=True)]
    first = operands.index(False) if False in operands else len(operands)
    return [*[""] * first, *names[first:]]


def _is_of_nodes(value: Any) -> bool:
    return isinstance(value, fx.Node) or (
        isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(part, fx.Node) for part in value)
    )


def size_text(size: int | torch.SymInt, symbols: Mapping[Any, str]) -> str:
    """A size as people write it: 2048, s, s + 1."""
    if isinstance(size, int):
        return str(size)
    expression = size.node.expr
    return str(expression.xreplace({s: sympy.Symbol(symbols[s], integer=True) for s in expression.free_symbols}))


def dtype_text(dtype: torch.dtype) -> str:
    """f32, bf16, i64, bool."""
    return short_dtype(str(dtype).removeprefix("torch."))


def graph_text(graph: fx.Graph, indent: str = "") -> list[str]:
    """A graph inside another: a line a node, named in their order, so that equal graphs are equal text."""
    names = {node: f"{index}" for index, node in enumerate(graph.nodes)}
    symbols = symbols_of(graph)
    lines = []
    for node in graph.nodes:
        types = ", ".join(map(str, types_of(node.meta.get("val"), symbols)))
        lines.append(f"{indent}%{names[node]} = {operation_of(node)}({arguments_of(node, names, symbols)}) : {types}")
    return lines


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [part for each in value for part in _flat(each)]
    return [] if value is None else [value]


def _type(value: Any, symbols: Mapping[Any, str]) -> Type:
    if isinstance(value, Tensor):
        return Type(dtype_text(value.dtype), tuple(size_text(size, symbols) for size in value.shape))
    return Type("size" if isinstance(value, torch.SymInt | int) else type(value).__name__, None)


def _inputs(node: fx.Node, names: Mapping[fx.Node, str]) -> tuple[tuple[str, int], ...]:
    """The name and the number of the output of each value that a node reads; a part of a result by its number."""
    found: list[tuple[str, int]] = []
    part = node.args[1] if node.target is operator.getitem and isinstance(node.args[1], int) else 0
    fx.map_arg((node.args, node.kwargs), lambda n: found.append((names[n], part)))
    return tuple(found)


def _results_by_node(graph: fx.Graph) -> dict[fx.Node, tuple[str, ...]]:
    found: dict[fx.Node, tuple[str, ...]] = {}
    for name, node in named_results(graph).items():
        found[node] = (*found.get(node, ()), name)
    return found


def _owners(graph: fx.Graph) -> dict[fx.Node, str]:
    """The module of each input and constant that one module alone reads."""
    found: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr") and node.users:
            modules = {module_of(user) for user in node.users if user.op != "output"}
            if len(modules) == 1:
                found[node] = modules.pop()
    return found


def _module(node: fx.Node, weight: Weight | None, owners: Mapping[fx.Node, str]) -> str:
    if weight is not None:
        return weight.sources[0].rpartition(".")[0]
    return owners.get(node, module_of(node)) if node.op in ("placeholder", "get_attr") else module_of(node)


def _detail(node: fx.Node, weight: Weight | None, program: Program) -> str:
    if weight is not None:
        return f"weight {expression(weight)}"
    if node.op == "placeholder":
        return next((f"state: {state.kind}" for state in program.states if state.name == node.target), "")
    if node.op == "get_attr":
        value = getattr(program.graph, str(node.target), None)
        return _contents(value) if isinstance(value, Tensor) else _digest_of_module(value)
    if node.op == "call_module":
        return _digest_of_module(program.graph.get_submodule(str(node.target)))
    return ""


def expression(weight: Weight) -> str:
    """A weight by the names of the tensors that it is computed from: `add(model.norm.weight, 1.0)`."""
    if weight.program is None:
        return weight.sources[0]
    told: dict[fx.Node, str] = {}
    sources = iter(weight.sources)
    for node in weight.program.graph.nodes:
        if node.op == "placeholder":
            told[node] = next(sources)
        elif node.op == "get_attr":
            told[node] = _contents(getattr(weight.program, str(node.target)))
        elif node.op == "output":
            (result,) = node.all_input_nodes
            return told[result]
        else:
            told[node] = f"{operation_of(node)}({arguments_of(node, told, {}, sign='')})"
    raise AssertionError("a graph ends in its output")


def _contents(value: Tensor) -> str:
    return str(value.tolist()) if value.numel() <= _SHORT else f"sha256 {digest(value)}"


def _digest_of_module(module: Any) -> str:
    """Its class, and the same for modules that compute the same."""
    parts = [type(module).__name__]
    for part in module.modules() if isinstance(module, torch.nn.Module) else ():
        if isinstance(part, fx.GraphModule):
            parts += graph_text(part.graph)
            parts += [f"{name} {digest(value)}" for name, value in part.named_buffers(recurse=False)]
        else:
            parts.append(type(part).__name__)
            parts.append(str({name: value for name, value in vars(part).items() if name in ("states", "rows")}))
    return f"{parts[0]} sha256 {hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:12]}"
