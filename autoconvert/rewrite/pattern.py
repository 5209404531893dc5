"""A pattern: a building block as PyTorch people write it, and the semantic operation that it is."""

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from autoconvert.analysis.constants import same_constant
from autoconvert.errors import InputError, first_line
from autoconvert.ir.editing import traced
from autoconvert.ops.semantic import Operation
from autoconvert.rewrite.own_lines import with_own_lines

# Sizes of random numbers, or numbers as they are, by parameter.
Example = Mapping[str, tuple[int, ...] | Tensor | float]
Guard = Callable[..., str | None]

_GUIDE = "docs/patterns.md is the guide to what a pattern is made of."


def _accept(**_: Any) -> None:
    return None


@dataclass(frozen=True, eq=False)
class Pattern:
    """`matches` and `becomes` are plain PyTorch functions of the same parameters with the same result.

    Parameters annotated `Tensor` bind any value of the graph; those annotated `float` capture a number that
    must stand in the graph as it is. `example` has an entry for every parameter: for a tensor its sizes, or a tensor
    where random numbers would not do; for a number the number. Its sizes are distinct: a size of the example stands
    for one size of the model wherever it occurs, and 1 for any. `guard` gets what was bound, by name, and
    returns why it declines, or None: tensors are fake tensors, but constants of the model have their numbers, which
    `same` compares. `operations` are those that `becomes` calls and the project does not have.
    """

    name: str
    block: str
    matches: Callable[..., Tensor]
    becomes: Callable[..., Tensor]
    example: Example
    guard: Guard = field(default=_accept)
    operations: tuple[Operation, ...] = ()

    @property
    def source(self) -> str:
        """Where the pattern is written, as file:line."""
        return place_of(self.matches)

    def fault(self, what: str, *, hint: str = _GUIDE, of: str = "matches", line: int | None = None) -> InputError:
        """What is wrong with the function `of` this pattern, said with its file and line."""
        places = (place_of(getattr(self, role)) for role in (of, "matches", "becomes"))
        file, _, first = next(filter(None, places), "<unknown>:0").rpartition(":")
        return InputError(f"{file}:{line or first}: pattern {self.name}: {what}", hint=hint)

    def ask(self, bound: Mapping[str, Any]) -> str | None:
        """Why the guard declines what was bound, or None.

        Raises:
            InputError: the guard itself fails, or gives neither.
        """
        try:
            declined = self.guard(**bound)
        except (Exception, SystemExit) as error:
            raise self.fault(
                f"`guard` fails: {first_line(error)}", of="guard", line=line_within(self.guard, error)
            ) from error
        return self.reason(declined)

    def reason(self, given: Any) -> str | None:
        """What the guard has given, which is a reason or None.

        Raises:
            InputError: it is neither.
        """
        if not isinstance(given, str | None):
            raise self.fault(f"`guard` gives {given}.", hint="It gives a reason to decline, or None.", of="guard")
        return given

    def replacement(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> fx.GraphModule:
        """What the block becomes where fake `tensors` and `numbers` were bound.

        Raises:
            InputError: `becomes` cannot be run there, or gives no tensor.
        """
        try:
            becomes = with_own_lines(self.becomes)
            graph = traced(lambda **bound: becomes(**bound, **numbers), dict(tensors))
        except (Exception, SystemExit) as error:
            raise self.not_run(error, tensors) from error
        if not isinstance(graph.graph.output_node().args[0], fx.Node):
            raise self.fault("`becomes` does not give one tensor where it matched.", of="becomes")
        return graph

    def not_run(self, error: BaseException, tensors: Mapping[str, Tensor]) -> InputError:
        """What is wrong where `becomes` fails, called with `tensors`."""
        return self.fault(
            f"`becomes` cannot be run where it matched, with {shapes(tensors)}: {first_line(error)}",
            hint="`guard` must decline what `becomes` is not for.",
            of="becomes",
            line=line_within(self.becomes, error),
        )

    def endless(self, others: Iterable[str] = ()) -> InputError:
        """What is wrong where `becomes` gives its own block, by way of what `others` make of it."""
        way = ", ".join(sorted(others))
        return self.fault(
            f"`becomes` gives the block of `matches` again{f', by way of {way}' if way else ''}: no end.",
            hint="Let `becomes` call an operation: one of autoconvert.ops, or one that the pattern brings.",
            of="becomes",
        )

    def inputs(self, times: int = 1, magnitude: float = 1.0) -> dict[str, Tensor | float]:
        """The same random arguments each time, for both functions; every size but 1 is `times` that of the example.

        Random numbers are about as large as `magnitude`; those that the example gives are as they are.
        """
        generator = torch.Generator().manual_seed(0)

        def value(given: tuple[int, ...] | Tensor | float) -> Tensor | float:
            if isinstance(given, tuple):
                sizes = [size if size == 1 else size * times for size in given]
                return torch.randn(sizes, generator=generator) * magnitude
            if isinstance(given, Tensor):
                return given.repeat([1 if size == 1 else times for size in given.shape])
            return given

        return {name: value(given) for name, given in self.example.items()}

    @cached_property
    def scalars(self) -> dict[float, str]:
        """The numbers that stand for the scalar parameters in the traced pattern."""
        names = [name for name, value in self.example.items() if isinstance(value, int | float)]
        return {0.7390851332151607 + index: name for index, name in enumerate(names)}

    @cached_property
    def reciprocals(self) -> dict[float, str]:
        """What stands for those that the pattern divides by: canonical is the product with the reciprocal."""
        return {1.0 / number: name for number, name in self.scalars.items()}

    @cached_property
    def graph(self) -> fx.GraphModule:
        """The pattern, traced as a model is; its placeholders are the tensor parameters.

        Raises:
            InputError: a number was computed with, or does not show in the traced function; or a constant
                tensor stands in it, which no comparison would see.
        """
        numbers = {name: number for number, name in self.scalars.items()}
        values = self.inputs()
        with FakeTensorMode() as mode:
            tensors = {n: mode.from_tensor(v) for n, v in values.items() if isinstance(v, Tensor)}
        graph = traced(lambda **bound: self.matches(**bound, **numbers), tensors)
        self._check_scalars(graph.graph)
        self._check_constants(graph.graph)
        return graph

    def _check_scalars(self, graph: fx.Graph) -> None:
        found: set[float] = set()
        for node in graph.nodes:
            fx.node.map_aggregate((node.args, node.kwargs), lambda a: found.add(a) if isinstance(a, float) else None)
        lost = [name for number, name in self.scalars.items() if number not in found]
        if lost:
            raise self.fault(
                f"the number `{lost[0]}` is not in the traced function.",
                hint="Use it as it is, as an operand or argument of an operation; compute in `becomes`.",
            )

    def _check_constants(self, graph: fx.Graph) -> None:
        if graph.find_nodes(op="get_attr"):
            raise self.fault(
                "a tensor of its own stands in the traced function.",
                hint="Make it a parameter annotated `Tensor`, or use a number.",
            )


def same(bound: Tensor, expected: Tensor) -> bool:
    """Whether what a guard got is a constant of the model, and has the numbers that are `expected`."""
    is_constant = not isinstance(bound, FakeTensor)
    # A number may stand there in any type that holds it.
    wide = torch.promote_types(bound.dtype, expected.dtype)
    return is_constant and same_constant(bound.to(wide), expected.to(wide))


def shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())


def line_within(function: Callable[..., Any], error: BaseException) -> int | None:
    """The last line of a function's own file that ran when it failed; None where none did."""
    file = place_of(function).rpartition(":")[0]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def place_of(function: Callable[..., Any]) -> str:
    """Where a function, or the body of an operation, is written, as file:line; "" for what is neither."""
    code = getattr(getattr(function, "body", function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def operations_of(patterns: Iterable[Pattern]) -> tuple[Operation, ...]:
    """The operations that the patterns bring, each once."""
    return tuple({each.overload: each for pattern in patterns for each in pattern.operations}.values())
