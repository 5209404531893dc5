"""A scaffold: the beginning of a pattern file, written from a part of a model's graph that no pattern matched."""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from autoconvert.analysis.constants import constant_value
from autoconvert.diagnose.explanation import Explanation
from autoconvert.diagnose.plain_blocks import PlainBlock
from autoconvert.diagnose.proposals import proposal
from autoconvert.dump.entry import identifier
from autoconvert.dump.places import place_of
from autoconvert.errors import InputError
from autoconvert.ir.nodes import concrete, named_arguments, overload, shape
from autoconvert.ir.program import Program
from autoconvert.ir.provenance import operation_name
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.matching import Match, Matcher
from autoconvert.rewrite.pattern import Pattern

aten = torch.ops.aten

_INFIX = {aten.add.Tensor: "+", aten.sub.Tensor: "-", aten.mul.Tensor: "*", aten.div.Tensor: "/"}
# Where a slice without an end ends.
_END = 2**63 - 1
_READABLE = 256
_OF_THE_LAST_AXIS = {"norm", "rotary"}
# What goes over all keys of a query.
_REDUCTIONS = {aten.softmax.int, aten.logsumexp.default, aten.amax.default, aten.sum.dim_IntList, aten.mean.dim}
_NO_PARAMETERS = {0.0, 1.0, -1.0, 2.0, 0.5}
_FILE = '''"""The {block} at {place}, as the model computes it, and the operation that it is."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.pattern import {imported}


{constants}def matches({parameters}) -> Tensor:
{statements}
    return {result}


def becomes({parameters}) -> Tensor:
{becomes}


PATTERNS = (
    Pattern(
        name="{name}",
        block="{block}",
        matches=matches,
        becomes=becomes,
        example={{
            {example},
        }},{guard}
    ),
)
'''
_TO_FINISH = """    # TODO: must give the same numbers. autoconvert/ops says what each operation computes.
    # Where none of them is this block, ops.operation(function) brings one: docs/patterns.md.
    raise NotImplementedError("call the operation that this block is")"""
_COMPLETE = """    # It gives the same numbers on the example; whether it always does is for you to judge.
    return {code}"""
_CONSTANTS = """# What the model has here, which decides what the block is.
CONSTANTS = {{
    {entries},
}}


"""
_GUARD = """
        guard=lambda **has: None if all(same(has[n], c) for n, c in CONSTANTS.items()) else "has other constants","""


@dataclass(frozen=True)
class Scaffold:
    """The code of a pattern file; `is_complete` where `becomes` gives the same numbers on the example."""

    code: str
    is_complete: bool

    @property
    def what_is_left(self) -> str:
        if self.is_complete:
            return "an operation gives the same numbers; read it before you use it"
        return "what the block becomes is for you to finish"


def write_scaffold(explanation: Explanation, path: Path) -> Scaffold:
    """Writes the beginning of a pattern for the `region` of `explanation` to `path`, which must not exist yet.

    Raises:
        InputError: there is such a file, or nothing to write a pattern for.
    """
    if explanation.region is None or explanation.program is None:
        raise InputError(
            "There is no block to write a pattern for.",
            hint="Everything that looks like one is fused, or the model was refused before it came to blocks.",
        )
    place = place_of(explanation.region.output)
    written = scaffold(explanation.region, explanation.program, str(place or explanation.model))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(written.code)
    except FileExistsError as error:
        raise InputError(f"{path} is there already.", hint="Name a file that is not.") from error
    return written


def scaffold(block: PlainBlock, program: Program, place: str) -> Scaffold:
    """A pattern whose `matches` is `block` of `program`, written at `place`.

    Raises:
        InputError: no code that matches the block could be written.
    """
    for rank, function in product(_ranks(block), (_readable, _literal)):
        writer = _Writer(block, program, function, rank)
        begun = writer.file(place)
        pattern = _found(begun, block)
        if pattern is not None:
            code = proposal(pattern, writer.tables)
            if code is None:
                return Scaffold(begun, is_complete=False)
            return Scaffold(begun.replace(_TO_FINISH, _COMPLETE.format(code=code)), is_complete=True)
    raise InputError(
        f"No pattern could be written for {place}: its operations are not those of a function of single values.",
        hint="Write one by hand; docs/patterns.md shows how.",
    )


def _ranks(block: PlainBlock) -> Iterable[int]:
    """How many axes parameters may have, fewest first where axes in front do not matter."""
    largest = max((len(shape(node)) for node in block.inputs), default=0)
    return range(1, largest + 1) if block.kind in _OF_THE_LAST_AXIS else (largest,)


def _found(text: str, block: PlainBlock) -> Pattern | None:
    """The pattern in `text`, if it is found where it was taken from."""
    names: dict[str, Any] = {}
    try:
        exec(compile(text, "<scaffold>", "exec"), names)
        pattern: Pattern = names["PATTERNS"][0]
        matcher = Matcher(pattern, canonicalize(pattern.graph).graph)
    # Whatever a form of the code ends in, another form may do.
    except Exception:
        return None
    is_found = matcher.anchor == block.output.target and isinstance(matcher.match(block.output), Match)
    return pattern if is_found else None


class _Writer:
    def __init__(self, block: PlainBlock, program: Program, function: Callable[[fx.Node], str], rank: int) -> None:
        self._block = block
        self._rank = rank
        self._function = function
        sizes = {size for node in (*block.inputs, *block.nodes) for size in shape(node) if isinstance(size, int)}
        self._length = next(number for number in range(5, 1000, 2) if number not in sizes)
        self._numbers: dict[str, float] = {}
        self._names: dict[fx.Node, str] = {}
        self._inputs = [node for node in block.inputs if not _is_number(node)]
        for node in self._inputs:
            self._name(node, _role(node, block, program))
        for node in filter(_is_number, block.inputs):
            self._names[node] = self._call(node)

    def _name(self, node: fx.Node, wanted: str) -> None:
        taken = {*self._names.values(), *self._numbers, "ops", "torch"}
        count = 1
        name = wanted
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        self._names[node] = name

    @property
    def tables(self) -> list[str]:
        """The parameters that stand for small constants of the model."""
        return [self._names[node] for node in self._inputs if _small_constant(node) is not None]

    def file(self, place: str) -> str:
        statements = []
        for node in self._block.nodes:
            code = self._call(node)
            self._name(node, identifier(operation_name(node).partition(".")[0]))
            statements.append(f"    {self._names[node]} = {code}")
        inputs = self._inputs
        names = [self._names[node] for node in inputs]
        constants = {self._names[node]: value for node in inputs if (value := _small_constant(node)) is not None}
        entries = [f'"{name}": torch.tensor({_numbers(value)})' for name, value in constants.items()]
        example = [
            f'"{self._names[node]}": {self._example(node)}' for node in inputs if self._names[node] not in constants
        ]
        example += [f'"{name}": {value!r}' for name, value in self._numbers.items()]
        example += ["**CONSTANTS"] if constants else []
        return _FILE.format(
            block=self._block.kind,
            place=place,
            imported="Pattern, same" if constants else "Pattern",
            constants=_CONSTANTS.format(entries=",\n    ".join(entries)) if constants else "",
            guard=_GUARD if constants else "",
            name=f"{self._block.kind}.mine",
            parameters=", ".join([f"{name}: Tensor" for name in names] + [f"{name}: float" for name in self._numbers]),
            statements="\n".join(statements),
            result=self._names[self._block.output],
            becomes=_TO_FINISH,
            example=",\n            ".join(example),
        )

    def _example(self, node: fx.Node) -> str:
        sizes = self._sizes(node)
        value = node.meta["val"]
        if value.is_floating_point():
            return repr(sizes)
        if value.dtype == torch.bool and len(sizes) > 1:
            # Each row has two of both, so that a softmax is over several, whichever of them True means.
            eye = f"torch.eye({sizes[-2]}, {sizes[-1]})"
            rows = f"({eye} + {eye}.roll(1, 0)).bool()"
            return rows if len(sizes) == 2 else f"{rows}.expand{sizes}"
        return f"torch.zeros({sizes}, dtype={value.dtype})"

    def _sizes(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(concrete(size, self._length) for size in shape(node)[-self._rank :])

    def _call(self, node: fx.Node) -> str:
        schema = overload(node)._schema if hasattr(node.target, "_schema") else None
        kinds = [_takes_sizes(argument.real_type) for argument in schema.arguments] if schema else repeat(False)
        given = [self._value(value, node, is_size) for value, is_size in zip(node.args, kinds, strict=False)]
        if node.target is operator.getitem:
            return f"{given[0]}[{given[1]}]"
        if node.target in _INFIX and len(given) == 2 and not node.kwargs:
            return f"{given[0]} {_INFIX[node.target]} {given[1]}"
        if node.target is aten.slice.Tensor and self._function is _readable:
            return self._slice(node, *given)
        named = [f"{name}={self._value(value, node, False)}" for name, value in node.kwargs.items()]
        return f"{self._function(node)}({', '.join([*given, *named])})"

    def _slice(
        self, node: fx.Node, x: str, _: str = "", start: str = "None", end: str = "None", step: str = "1"
    ) -> str:
        """As people write it: `x[..., start:end]`, with as many colons behind as there are axes."""
        rank = len(shape(node))
        dim = node.args[1] if len(node.args) > 1 else 0
        assert isinstance(dim, int)
        bounds = [start if start not in ("None", "0") else "", end if end not in ("None", str(_END)) else ""]
        part = ":".join([*bounds, step] if step != "1" else bounds)
        return f"{x}[{', '.join(['...', part, *[':'] * (rank - 1 - dim % rank)])}]"

    def _value(self, value: Any, node: fx.Node, is_size: bool) -> str:
        if isinstance(value, fx.Node) and value in self._names:
            return self._names[value]
        if isinstance(value, fx.Node):
            return self._size(concrete(value.meta["val"], self._length))
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._value(each, node, is_size) for each in value)}]"
        if isinstance(value, bool) or value is None:
            return repr(value)
        if isinstance(value, int):
            return self._size(value) if is_size else repr(value)
        if isinstance(value, float) and value not in _NO_PARAMETERS and abs(value) < float("inf"):
            return self._number(value, node)
        return f'float("{value}")' if value in (float("inf"), float("-inf")) else str(value)

    def _size(self, size: int) -> str:
        """As a size of a parameter, so that it holds for other models too."""
        # Widths are cut and merged more often than heads, and may be as many.
        for axis in range(-1, -5, -1):
            for node in self._inputs:
                sizes = self._sizes(node)
                if size > 1 and -axis <= len(sizes) and sizes[axis] == size:
                    return f"{self._names[node]}.shape[{axis}]"
        return repr(size)

    def _number(self, value: float, node: fx.Node) -> str:
        is_eps = 0 < value < 1e-2 and node.target is not aten.mul.Tensor
        wanted = "eps" if is_eps else "scale" if node.target is aten.mul.Tensor else "number"
        name, count = wanted, 1
        while name in self._numbers or name in self._names.values():
            count += 1
            name = f"{wanted}_{count}"
        self._numbers[name] = value
        return name


def _takes_sizes(argument_type: Any) -> bool:
    """Whether an argument of an operation is a size, or several, which may be symbols."""
    if argument_type.kind() in ("OptionalType", "ListType"):
        return _takes_sizes(argument_type.getElementType())
    return bool(argument_type.kind() == "SymIntType")


def _readable(node: fx.Node) -> str:
    name = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
    if hasattr(F, name) and not hasattr(torch, name):
        return f"F.{name}"
    return f"F.{name}" if name == "linear" else f"torch.{name}" if hasattr(torch, name) else _literal(node)


def _literal(node: fx.Node) -> str:
    if not isinstance(node.target, torch._ops.OpOverload):
        return str(getattr(node.target, "__name__", node.target))
    namespace, name = node.target.namespace, node.target._opname
    return f"torch.ops.{namespace}.{name}.{node.target._overloadname}"


def _role(node: fx.Node, block: PlainBlock, program: Program) -> str:
    """What a value is called: by the module's attribute, or by what the block does with it."""
    weight = _chain(node)[-1]
    if str(weight.target) in program.weights:
        path = program.weights[str(weight.target)].sources[0].split(".")
        own = path[-1] if path[-1] not in ("weight", "bias") or len(path) < 2 or block.kind == "norm" else path[-2]
        return identifier(f"{own}_bias" if path[-1] == "bias" and own != "bias" else own)
    value = constant_value(node)
    if value is not None:
        return "table" if value.is_floating_point() else "index"
    length = sum(isinstance(size, torch.SymInt) for size in shape(node))
    if block.kind == "attention":
        products = [n for n in block.nodes if n.target is aten.matmul.default]
        if length > 1 or not any(node in product.all_input_nodes for product in products):
            return "mask"
        if node not in products[0].all_input_nodes:
            return "value"
        return "query" if (products[0].args[0] is node) is not _keys_first(block) else "key"
    made = [n.target for n in _chain(node)]
    names = {aten.cos.default: "cos", aten.sin.default: "sin"}
    return next((name for operation, name in names.items() if operation in made), "x")


def _keys_first(block: PlainBlock) -> bool:
    """Whether scores have a row for each key: what is summed or compared is a column of them."""
    axes = {axis for node in block.nodes if node.target in _REDUCTIONS for axis in _reduced_axes(node)}
    return axes == {-2}


def _reduced_axes(node: fx.Node) -> set[int]:
    """Counted from the last, which is -1."""
    (x,), dim = node.all_input_nodes, named_arguments(node)["dim"]
    rank = len(shape(x))
    return {axis % rank - rank for axis in (dim if isinstance(dim, list) else [dim])}


def _is_number(node: fx.Node) -> bool:
    """A tensor without axes that an operation makes of a number in the code."""
    return node.op == "call_function" and not node.all_input_nodes and shape(node) == ()


def _numbers(value: Tensor) -> str:
    return re.sub(r"\b(inf|nan)\b", r'float("\1")', str(value.tolist()))


def _small_constant(node: fx.Node) -> Tensor | None:
    """What a person can read in a file."""
    value = constant_value(node)
    return value if value is not None and value.numel() <= _READABLE else None


def _chain(node: fx.Node) -> list[fx.Node]:
    """The node, and those before it as long as there is one alone."""
    found = [node]
    while len(found[-1].all_input_nodes) == 1:
        found.extend(found[-1].all_input_nodes)
    return found
