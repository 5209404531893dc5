"""Checks a pattern alone: its form, that both of its functions give the same numbers, and that it finds itself."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.check.region import MAGNITUDES, same_numbers
from autoconvert.errors import first_line
from autoconvert.ir.editing import replace, traced
from autoconvert.ir.fusion import NearMiss
from autoconvert.ir.program import Program
from autoconvert.ops.semantic import OUTSIDE, Operation
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.decompose import decompose
from autoconvert.rewrite.matching import Match, Matcher
from autoconvert.rewrite.pattern import Pattern, line_within

_OWN = "the example"

_EXAMPLE = 'It has a size for each `Tensor` and a number for each `float`: {"x": (1, 5, 14), "eps": 1e-6}.'
# Numbers in a tensor of an example, which is run twice, and once more with each size doubled.
_LARGEST = 1 << 20
_SMALL = "A small size stands for any of a model's."

Values = Mapping[str, Tensor | float]


def check_pattern(pattern: Pattern) -> None:
    """Checks what can be known of `pattern` before there is a model.

    Raises:
        InputError: its parameters do not fit, a function cannot be run on the example, both give different shapes or
            numbers, or it does not match its own function. The message begins with the file and the line.
    """
    _check_form(pattern)
    values = pattern.inputs()
    if declined := pattern.reason(_ran(pattern, "guard", values, _OWN)):
        raise pattern.fault(f"`guard` declines the pattern's own example: {declined}.", of="guard")
    for magnitude in MAGNITUDES:
        on = _OWN if magnitude == 1 else f"numbers {magnitude:g} times those of the example"
        _check_numbers(pattern, pattern.inputs(magnitude=magnitude), on, magnitude)
    _check_finds_itself(pattern, values)
    _check_operations(pattern, values)


def check_other_sizes(pattern: Pattern, times: int = 2) -> None:
    """Both functions give the same where every size of the example is larger, or the guard declines.

    Raises:
        InputError: they do not, or a function holds only at the sizes of the example.
    """
    values = pattern.inputs(times)
    on = f"sizes {times} times those of the example"
    if not _ran(pattern, "guard", values, on):
        _check_numbers(pattern, values, on)


def matches_in(pattern: Pattern, function: Callable[..., Tensor], values: Values) -> list[Match | NearMiss]:
    """What the pattern says to each place of `function`, called with `values`, where it could end."""
    given = {name: value for name, value in pattern.example.items() if isinstance(value, Tensor)}
    matcher = Matcher(pattern, canonicalize(pattern.graph).graph, lambda node: given.get(str(node.target)))
    graph = canonicalized(function, values)
    return [matcher.match(node) for node in graph.graph.find_nodes(op="call_function", target=matcher.anchor)]


def canonicalized(function: Callable[..., Tensor], values: Values, constants: Collection[str] = ()) -> fx.GraphModule:
    """`function` traced and canonicalized as a model is; numbers stand in it, and it holds what `constants` name."""
    numbers = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
    with FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(value) for name, value in values.items() if isinstance(value, Tensor)}
    graph = traced(lambda **bound: function(**bound, **numbers), fakes)
    for node in graph.graph.find_nodes(op="placeholder"):
        if node.target in constants:
            _hold(graph, node, values[str(node.target)])
    return canonicalize(graph)


def _hold(graph: fx.GraphModule, node: fx.Node, value: Tensor | float) -> None:
    """What was an input is a constant of the graph."""
    assert isinstance(value, Tensor)
    graph.register_buffer(str(node.target), value)
    with graph.graph.inserting_before(node):
        constant = graph.graph.get_attr(str(node.target))
    constant.meta = dict(node.meta)
    replace(node, constant)


def _check_form(pattern: Pattern) -> None:
    for role in ("name", "block"):
        if not isinstance(getattr(pattern, role), str):
            raise pattern.fault(f"`{role}` is no text.")
    _check_example(pattern)
    example = pattern.example
    if not inspect.isfunction(pattern.matches):
        raise pattern.fault("`matches` is not a function.")
    operations = pattern.operations
    if not isinstance(operations, tuple | list) or not all(isinstance(each, Operation) for each in operations):
        raise pattern.fault("`operations` is no tuple of operations.", hint="Each is what `operation(body)` gives.")
    parameters = inspect.signature(pattern.matches).parameters
    if set(parameters) != set(example):
        raise pattern.fault(
            f"`matches` has the parameters {', '.join(parameters)}; `example` has {', '.join(example)}.",
            hint="Both name the same parameters.",
        )
    for role in ("becomes", "guard"):
        try:
            inspect.signature(getattr(pattern, role)).bind(**example)
        except TypeError as error:
            raise pattern.fault(
                f"`{role}` cannot be called with the parameters of `matches`, {', '.join(example)}: {error}.",
                hint="It takes the same parameters, by the same names.",
                of=role,
            ) from error
    _check_annotations(pattern)


def _check_example(pattern: Pattern) -> None:
    if not isinstance(pattern.example, Mapping):
        raise pattern.fault(f"`example` is no dict: {pattern.example!r}.", hint=_EXAMPLE)
    for name, value in pattern.example.items():
        is_sizes = isinstance(value, tuple) and all(isinstance(size, int) and size > 0 for size in value)
        if not isinstance(name, str) or (not is_sizes and not isinstance(value, Tensor | int | float)):
            raise pattern.fault(f"`example` has {value!r} for `{name}`.", hint=_EXAMPLE)
        if isinstance(value, tuple) and prod(value) > _LARGEST:
            raise pattern.fault(f"`example` has {prod(value)} numbers for `{name}`.", hint=_SMALL)


def _check_annotations(pattern: Pattern) -> None:
    try:
        kinds = typing.get_type_hints(pattern.matches)
    except NameError as error:
        raise pattern.fault(f"an annotation cannot be read: {error}.") from error
    for name, value in pattern.example.items():
        expected = float if isinstance(value, int | float) else Tensor
        if name not in kinds:
            raise pattern.fault(
                f"the parameter `{name}` of `matches` has no annotation.",
                hint="Annotate it `Tensor`, or `float` where it stands for a number.",
            )
        if kinds[name] is not expected:
            kind = getattr(kinds[name], "__name__", kinds[name])
            raise pattern.fault(
                f"the parameter `{name}` is annotated `{kind}`, the example has {value!r}.", hint=_EXAMPLE
            )


def _ran(pattern: Pattern, role: str, values: Values, on: str) -> Any:
    """What the function in `role` gives; the line in the message is the last one of its file that ran."""
    function = getattr(pattern, role)
    try:
        with torch.no_grad():
            return function(**values)
    except (Exception, SystemExit) as error:
        raise pattern.fault(
            f"`{role}` cannot be run on {on}: {first_line(error)}",
            hint="" if on == _OWN else "Write sizes as x.shape[…] or -1, not as numbers.",
            of=role,
            line=line_within(function, error),
        ) from error


def _check_numbers(pattern: Pattern, values: Values, on: str, magnitude: float = 1.0) -> None:
    expected, actual = (_ran(pattern, role, values, on) for role in ("matches", "becomes"))
    for role, value in (("matches", expected), ("becomes", actual)):
        if not isinstance(value, Tensor):
            raise pattern.fault(f"`{role}` gives {type(value).__name__}, not one tensor.", of=role)
    if actual.shape != expected.shape:
        sizes = f"{list(actual.shape)} where `matches` gives {list(expected.shape)}"
        raise pattern.fault(f"`becomes` gives the shape {sizes}, on {on}.", of="becomes")
    if not same_numbers(actual, expected, magnitude):
        apart = (actual - expected).abs().max()
        raise pattern.fault(
            f"`becomes` gives other numbers than `matches` on {on}, up to {apart:.1e} apart.", of="becomes"
        )


def _check_finds_itself(pattern: Pattern, values: Values) -> None:
    graph = pattern.graph.graph
    if any(result.op != "call_function" for result in graph.output_node().all_input_nodes):
        raise pattern.fault("`matches` does nothing.")
    for node in graph.find_nodes(op="placeholder"):
        if not node.users:
            raise pattern.fault(f"`matches` does not use the parameter `{node.target}`.")
    results = matches_in(pattern, pattern.matches, values)
    if not results or isinstance(results[-1], NearMiss):
        reason = results[-1].reason if results else "nothing is like its last operation"  # type: ignore[union-attr]
        raise pattern.fault(f"the pattern is not found in its own function: {reason}.")
    if any(isinstance(result, Match) for result in matches_in(pattern, pattern.becomes, values)):
        raise pattern.endless()


def _check_operations(pattern: Pattern, values: Values) -> None:
    """What `becomes` calls from outside, the pattern brings; the device's body gives the same numbers."""
    program = Program(canonicalized(pattern.becomes, values))
    called = {node.target: str(node.target) for node in program.graph.graph.nodes}
    brought = {each.overload for each in pattern.operations}
    for target, name in called.items():
        if name.startswith(f"{OUTSIDE}.") and target not in brought:
            raise pattern.fault(
                f"`becomes` calls {name.removesuffix('.default')}, which the pattern does not bring.",
                hint="Name it in `operations` of the pattern.",
                of="becomes",
            )
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    expected = pattern.becomes(**values)
    actual = decompose(program, pattern.operations).graph(*tensors)
    if actual.shape != expected.shape or not same_numbers(actual, expected):
        raise pattern.fault(
            "the `device` bodies of its operations give other numbers than the operations.", of="becomes"
        )
