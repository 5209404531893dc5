"""The code of a snapshot: PyTorch that runs, a statement a node, each value by the name that it has everywhere."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from autoconvert import ops
from autoconvert.analysis.constants import digest
from autoconvert.dump.entry import Entry, identifier
from autoconvert.dump.naming import operation_of
from autoconvert.dump.snapshot import Snapshot, arguments_of, size_text, symbols_of
from autoconvert.dump.wrapping import wrapped
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import overload, shape
from autoconvert.ops.semantic import Body
from autoconvert.rewrite.decomposition import given_arguments, traced_at
from autoconvert.scan.running_sum import RunningSum
from autoconvert.scan.scan import Scan, StatefulScan

# The file beside the code in which constants lie, by their digests.
CONSTANTS = "constants.safetensors"

_SHORT = 8
_INDENT = " " * 8
# What counts up, and what says which of some things.
_COUNTS, _CHOICES = (Role.POSITIONS, Role.INPUT_POS), (Role.TOKENS,)

# What registers operations of these namespaces, which the target's words are in.
_REGISTERED_BY = {
    "tfl": "litert_torch.backend.experimental.torch_tfl",
    "litert_torch": "litert_torch.generative.custom_ops.dynamic_update_slice",
}

_HEAD = '''"""{title}

Run it to see the shapes of what it gives: python {name}.py
"""

import operator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from autoconvert import ops
from autoconvert.scan.scan import Scan, StatefulScan
from autoconvert.scan.running_sum import RunningSum
{imports}
aten = torch.ops.aten
_file = Path(__file__).with_name("{constants}")
constants = load_file(_file) if _file.exists() else {{}}
'''

_TAIL = """
if __name__ == "__main__":
    with torch.no_grad():
        results = Graph()(**inputs())
    for name, value in results.items():
        print(name, tuple(value.shape), value.dtype)
"""


def code(
    name: str, snapshot: Snapshot, constants: dict[str, Tensor], bodies: Mapping[OpOverload, Body] | None = None
) -> str:
    """A file called `name` with a module `Graph` and its `inputs`; larger constants are added to `constants`.

    Operations in `bodies`, which only whoever has their pattern knows, are modules that compute those.
    """
    program = snapshot.program
    by_node = {entry.node_name: entry for entry in snapshot.entries}
    names = {node: by_node[node.name].name for node in program.graph.graph.nodes if node.name in by_node}
    writer = _Writer(constants, bodies or {})
    expression = writer.module(program.graph, names, lambda node: _comment(by_node.get(node.name)), "Graph")
    assert expression == "Graph()"
    used = {node.target.namespace for node in program.graph.graph.nodes if isinstance(node.target, OpOverload)}
    imports = "".join(f"import {module}\n" for namespace, module in _REGISTERED_BY.items() if namespace in used)
    head = _HEAD.format(title=f"The graph after pass {name}.", name=name, constants=CONSTANTS, imports=imports)
    return "\n".join([head, *writer.classes, *_inputs(snapshot), _TAIL])


@dataclass
class _Writer:
    """Writes modules as classes; `constants` takes their larger numbers."""

    constants: dict[str, Tensor]
    bodies: Mapping[OpOverload, Body] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    _traced: dict[str, fx.GraphModule] = field(default_factory=dict)
    _bodies: dict[fx.GraphModule, str] = field(default_factory=dict)

    def module(
        self,
        module: nn.Module,
        names: Mapping[fx.Node, str] | None = None,
        comment: Callable[[fx.Node], str] = lambda _: "",
        called: str = "",
    ) -> str:
        """The expression that makes `module`; classes that it needs are written before."""
        if isinstance(module, RunningSum):
            return f"RunningSum({module.states[0][0]})"
        if isinstance(module, StatefulScan):
            return f"StatefulScan({self.module(module.scan)})"
        if isinstance(module, Scan):
            # A shift register is found by its graph.
            step = f"fx.symbolic_trace({self.module(module.step)})"
            return f"Scan({step}, {module.states!r}, {module.rows!r})"
        assert isinstance(module, fx.GraphModule), f"{type(module).__name__} has no code"
        nodes = list(module.graph.nodes)
        names = names or {node: identifier(node.name) for node in nodes}
        symbols = symbols_of(module.graph)
        parts, statements = [], []
        for node in nodes:
            if node.op in ("get_attr", "call_module") or node.target in self.bodies:
                parts.append(wrapped(f"self.{names[node]} = {self._part(module, node)}", indent=_INDENT))
            if node.op not in ("placeholder", "output"):
                statements.append(wrapped(self._statement(node, names, symbols), comment(node), _INDENT))
        parameters = "".join(f", {names[node]}: Tensor" for node in nodes if node.op == "placeholder")
        called = called or f"Step{len(self.classes)}"
        lines = [
            f"\nclass {called}(nn.Module):",
            *(["    def __init__(self) -> None:", f"{_INDENT}super().__init__()", *parts, ""] if parts else []),
            wrapped(f"def forward(self{parameters}):", indent=_INDENT[:4]),
            *_sizes(module.graph, names, symbols),
            *statements,
            wrapped(f"return {arguments_of(module.graph.output_node(), names, {}, sign='')}", indent=_INDENT),
            "",
        ]
        self.classes.append("\n".join(lines))
        return f"{called}()"

    def _part(self, owner: fx.GraphModule, node: fx.Node) -> str:
        if node.op == "call_module":
            return self.module(owner.get_submodule(str(node.target)))
        if node.op == "call_function":
            return self._body(node)
        value = getattr(owner, str(node.target))
        if isinstance(value, nn.Module):
            return self.module(value)
        return f"nn.Buffer({self._constant(value)})"

    def _body(self, node: fx.Node) -> str:
        """The module that computes an operation of `bodies` at the node's shapes, of its tensors in their order."""
        graph = traced_at(node, self.bodies[overload(node)], self._traced)
        if graph not in self._bodies:
            called = f"{operation_of(node).title().replace('_', '')}{len(self._bodies)}"
            self._bodies[graph] = self.module(graph, called=called)
        return self._bodies[graph]

    def _statement(self, node: fx.Node, names: Mapping[fx.Node, str], symbols: Mapping[Any, str]) -> str:
        if node.target not in self.bodies:
            return _statement(node, names, symbols)
        given = (value for value in given_arguments(node).values() if isinstance(value, fx.Node))
        tensors = (names[value] for value in given if isinstance(value.meta["val"], Tensor))
        return f"{names[node]} = self.{names[node]}({', '.join(tensors)})"

    def _constant(self, value: Tensor) -> str:
        if value.numel() <= _SHORT and value.dtype.is_floating_point and bool(value.isfinite().all()):
            return f"torch.tensor({value.tolist()}, dtype={value.dtype})"
        if value.is_complex():
            return f"torch.view_as_complex({self._constant(torch.view_as_real(value))})"
        key = digest(value)
        self.constants[key] = value.detach().contiguous().clone()
        return f'constants["{key}"]'


def _statement(node: fx.Node, names: Mapping[fx.Node, str], symbols: Mapping[Any, str]) -> str:
    if node.op == "get_attr":
        return f"{names[node]} = self.{names[node]}"
    arguments = arguments_of(node, names, symbols, sign="")
    if node.target is operator.getitem:
        return f"{names[node]} = {names[node.args[0]]}[{node.args[1]!r}]"  # type: ignore[index]
    function = f"self.{names[node]}" if node.op == "call_module" else _function(node.target)
    return f"{names[node]} = {function}({arguments})"


def _function(target: Any) -> str:
    if isinstance(target, OpOverload):
        namespace, name = target.namespace, target._opname
        if getattr(ops, name, None) is target:
            return f"ops.{name}"
        start = "aten" if namespace == "aten" else f"torch.ops.{namespace}"
        return f"{start}.{name}.{target._overloadname}"
    module = str(target.__module__).removeprefix("_")
    return f"{module}.{target.__qualname__}" if module != "builtins" else str(target.__qualname__)


def _sizes(graph: fx.Graph, names: Mapping[fx.Node, str], symbols: Mapping[Any, str]) -> Iterator[str]:
    """Statements for the sizes that arguments name, each read from an input that has it."""
    literals: list[Any] = []
    for node in graph.nodes:
        fx.node.map_aggregate((node.args, node.kwargs), literals.append)
    if not any(type(each) is torch.SymInt for each in literals):
        return
    missing = dict(symbols)
    for node in graph.find_nodes(op="placeholder"):
        for axis, size in enumerate(shape(node)):
            symbol = size.node.expr if isinstance(size, torch.SymInt) else None
            if symbol in missing:
                yield f"{_INDENT}{missing.pop(symbol)} = {names[node]}.shape[{axis}]"


def _inputs(snapshot: Snapshot) -> Iterator[str]:
    """The function that makes an input for every parameter."""
    graph = snapshot.program.graph.graph
    by_node = {entry.node_name: entry for entry in snapshot.entries}
    symbols = symbols_of(graph)
    lengths = ", ".join(f"{name}: int = 7" for name in symbols.values())
    yield f"\ndef inputs({lengths}) -> dict[str, Tensor]:"
    yield '    """Random numbers in the shape of every input; states are empty and positions count from zero."""'
    yield "    torch.manual_seed(0)"
    yield "    return {"
    for node in graph.find_nodes(op="placeholder"):
        entry, value = by_node[node.name], node.meta["val"]
        sizes = "".join(f"{size_text(size, symbols)}, " for size in value.shape)
        yield f'        "{entry.name}": {_input(entry, f"({sizes.strip()})", value.dtype)},'
    yield "    }\n"


def _input(entry: Entry, sizes: str, dtype: torch.dtype) -> str:
    if entry.role in _COUNTS:
        return f"torch.ones({sizes}, dtype={dtype}).cumsum(-1, dtype={dtype}) - 1"
    if entry.role in _CHOICES:
        return f"torch.randint(0, 2, {sizes}, dtype={dtype})"
    if entry.role is Role.STATE or not dtype.is_floating_point:
        return f"torch.zeros({sizes}, dtype={dtype})"
    return f"0.1 * torch.randn({sizes}, dtype={dtype})"


def _comment(entry: Entry | None) -> str:
    if entry is None:
        return ""
    told = [", ".join(map(str, entry.types)), entry.module.replace(".", "/"), entry.place.short if entry.place else ""]
    return f"# {'  '.join(filter(None, told))}"
