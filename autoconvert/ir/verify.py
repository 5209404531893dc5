"""Verification: a program is well-formed, its types are those of its operations, its inputs and outputs as it says."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from torch import Tensor, fx

from autoconvert.errors import BrokenPass
from autoconvert.ir.inference import Inference, Key
from autoconvert.ir.interface import Port, sizes_of
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import location, named
from autoconvert.ir.state import Write
from autoconvert.ir.types import SizeType, TensorType, Type, Typed, expressions_in, type_of, type_text


@dataclass(frozen=True)
class _Seen:
    """A node as it was verified: the very objects that it is made of, and what its type was inferred from."""

    args: Any
    kwargs: Any
    value: Any
    held: Any
    key: Key

    def is_of(self, node: fx.Node, held: Any) -> bool:
        """Whether the node is still made of the same objects, but for its operands."""
        same = self.args is node.args and self.kwargs is node.kwargs and self.value is node.meta.get("val")
        return same and self.held is held and self.key[0] == node.target

    def differs(self, other: "_Seen") -> bool:
        """Whether another operation, other operands or another type stand there now."""
        same = self.key == other.key and self.value is other.value and self.held is other.held
        return not same or (self.args, self.kwargs) != (other.args, other.kwargs)


class Verifier:
    """Verifies one program after each pass, and of its nodes those that changed.

    `version` grows whenever the graph did change.
    """

    def __init__(self, program: Program) -> None:
        self.version = 0
        self._inference = Inference()
        self._seen: dict[fx.Node, _Seen] = {}
        self._order: list[fx.Node] = []
        self._ports = _declared(program)

    def verify(self, program: Program, step: str, *, changes_ports: bool = False) -> None:
        """Verifies what the pass `step` has left.

        Raises:
            BrokenPass: the first thing that is wrong.
        """
        try:
            self._verify_nodes(program)
            _verify_ends(program)
            self._verify_ports(program, changes_ports)
        except _Wrong as wrong:
            raise broken(step, wrong.message) from wrong.__cause__

    def _verify_nodes(self, program: Program) -> None:
        owner, order = program.graph, list(program.graph.graph.nodes)
        seen: dict[fx.Node, _Seen] = {}
        retyped: set[fx.Node] = set()
        changed = order != self._order
        for node in order:
            operands = node.all_input_nodes
            for operand in operands:
                if operand not in seen:
                    raise _Wrong(f"{named(node)} uses {operand.name}, which is not computed before it")
            held, before = _held(owner, node), self._seen.get(node)
            if before is not None and before.is_of(node, held) and (not retyped or retyped.isdisjoint(operands)):
                seen[node] = before
                continue
            value = node.meta.get("val")
            now = seen[node] = _Seen(node.args, node.kwargs, value, held, self._inference.key(node))
            if before is None or before.value is not value:
                retyped.add(node)
            changed = changed or before is None or before.differs(now)
            self._verify_type(node, now)
        self._seen, self._order = seen, order
        self.version += changed

    def _verify_type(self, node: fx.Node, now: _Seen) -> None:
        recorded, key = self._inference.recorded(node), now.key
        if node.op == "get_attr":
            if recorded != type_of(now.held):
                raise _Wrong(
                    f"{named(node)} is recorded as {type_text(recorded)}, but is {type_text(type_of(now.held))}"
                )
        elif node.op == "call_module":
            if not self._inference.agrees(node, key, now.held):
                gives = self._given(key, now.held)
                raise _Wrong(f"{named(node)} is recorded as {type_text(recorded)}, but {node.target} gives {gives}")
        elif node.op == "call_function" and not self._inference.agrees(node, key):
            try:
                inferred = self._inference.call(node, key)
            except Exception as error:
                why = str(error).strip().partition("\n")[0]
                raise _Wrong(f"{named(node)} cannot be computed from its operands, {_operands(key)}: {why}") from error
            if recorded != inferred and not _same_but_for_names(recorded, inferred, key):
                raise _Wrong(
                    f"{named(node)} is recorded as {type_text(recorded)}, but {type_text(inferred)} is inferred from "
                    f"its operands, {_operands(key)}"
                )

    def _given(self, key: Key, module: Typed) -> str:
        try:
            return f"{type_text(self._inference.of_module(key, module))} where the sequence has a length"
        except Exception as error:
            return f"nothing: {error}"

    def _verify_ports(self, program: Program, may_change: bool) -> None:
        before, self._ports = self._ports, _declared(program)
        if may_change or before == self._ports:
            return
        name = min(port.name for port in before ^ self._ports)
        was, now = (next((port for port in ports if port.name == name), None) for ports in (before, self._ports))
        raise _Wrong(
            f"the port {name} was {_port_text(was)} and is {_port_text(now)}, and the pass does not say that it "
            "changes any"
        )


def verify(program: Program, step: str) -> None:
    """Verifies a program on its own; see Verifier."""
    Verifier(program).verify(program, step)


def verify_ends(program: Program, step: str) -> None:
    """Verifies the inputs and outputs of a program whose types were inferred as it was made; raises BrokenPass."""
    try:
        _verify_ends(program)
    except _Wrong as wrong:
        raise broken(step, wrong.message) from None


def broken(step: str, message: str) -> BrokenPass:
    """What to say about a program that the pass `step` has left."""
    return BrokenPass(f"After {step}: {message}.", hint="This is a bug in autoconvert: please report it.")


class _Wrong(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _operands(key: Key) -> str:
    _, args, kwargs = key
    return ", ".join(map(type_text, (*args, *(kind for _, kind in kwargs)))) or "no operands"


def _held(owner: fx.GraphModule, node: fx.Node) -> Any:
    """The tensor or module of the graph's owner that a node names; None where it names none."""
    if node.op not in ("get_attr", "call_module"):
        return None
    try:
        held = operator.attrgetter(str(node.target))(owner)
    except AttributeError:
        raise _Wrong(f"{named(node)} names {node.target}, which the graph does not hold") from None
    assert node.op == "get_attr" or isinstance(held, Typed), f"a {type(held).__name__} says no types"
    return held


def _declared(program: Program) -> frozenset[Port]:
    """What a caller sees of a program: weights are none of it."""
    return frozenset((*program.inputs, *program.outputs, *(state.port for state in program.states)))


def _port_text(port: Port | None) -> str:
    return "missing" if port is None else f"{port.role.value} {TensorType(port.dtype, port.shape)}"


def _verify_ends(program: Program) -> None:
    _verify_inputs(program)
    _verify_outputs(program)


def _verify_inputs(program: Program) -> None:
    """A placeholder for each port, and a port for each placeholder."""
    placeholders = program.graph.graph.find_nodes(op="placeholder")
    nodes = {str(node.target): node for node in placeholders}
    if len(nodes) < len(placeholders):
        names = [str(node.target) for node in placeholders]
        raise _Wrong(f"there are several inputs {next(name for name in names if names.count(name) > 1)}")
    ports = _by_name(program.ports, "input")
    if alone := nodes.keys() ^ ports.keys():
        name = min(alone)
        where = "an input of the graph, and is declared as none" if name in nodes else "declared, and is no input"
        raise _Wrong(f"{name} is {where}")
    for name, port in ports.items():
        _verify_port(program, port, nodes[name], "input")


def _verify_outputs(program: Program) -> None:
    last = program.graph.graph.output_node()
    results = last.args[0] if last.args else None
    if last.next.op != "root" or not isinstance(results, dict):
        raise _Wrong("the graph does not end in a dict of its results")
    written = (state.port for state in program.states if state.write is not Write.FIXED)
    ports = _by_name((*program.outputs, *written), "output")
    if alone := results.keys() ^ ports.keys():
        name = min(alone)
        where = "returned, and is declared as no output" if name in results else "declared, and is not returned"
        raise _Wrong(f"{name} is {where}")
    for name, node in results.items():
        if not isinstance(node, fx.Node) or not isinstance(node.meta.get("val"), Tensor):
            raise _Wrong(f"the output {name} is {node}, which is no tensor of the graph")
        _verify_port(program, ports[name], node, "output")


def _by_name(ports: Sequence[Port], where: str) -> dict[str, Port]:
    found: dict[str, Port] = {}
    for port in ports:
        if found.setdefault(port.name, port) is not port:
            raise _Wrong(f"several {where}s are declared as {port.name}")
    return found


def _verify_port(program: Program, port: Port, node: fx.Node, where: str) -> None:
    value = node.meta["val"]
    found = (value.dtype, sizes_of(value, program.symbols))
    if found != (port.dtype, port.shape):
        raise _Wrong(
            f"the {port.role.value} {port.name} is declared as {TensorType(port.dtype, port.shape)}, and its {where}, "
            f"{location(node)}, is {TensorType(*found)}"
        )


def _same_but_for_names(recorded: Type, inferred: Type, key: Key) -> bool:
    """Whether the types are one, where a size that only running tells has another name each time it is inferred."""
    known = {symbol for expression in expressions_in(key) for symbol in expression.free_symbols}
    names: dict[Any, Any] = {}

    def same(old: Any, new: Any) -> bool:
        if isinstance(old, TensorType) and isinstance(new, TensorType):
            return old.dtype == new.dtype and same(old.sizes, new.sizes)
        if isinstance(old, SizeType) and isinstance(new, SizeType):
            return same(old.expression, new.expression)
        if isinstance(old, tuple) and isinstance(new, tuple):
            return len(old) == len(new) and all(map(same, old, new))
        if isinstance(old, sympy.Symbol) and isinstance(new, sympy.Symbol) and known.isdisjoint((old, new)):
            return bool(names.setdefault(new, old) == old)
        return bool(old == new)

    return same(recorded, inferred)
