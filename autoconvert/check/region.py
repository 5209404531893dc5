"""Checks a rewrite where it happens: the matched region and its replacement on the same random inputs.

Constants of the model are as they are.
"""

import torch
from torch import Tensor, fx

from autoconvert.analysis.constants import digest
from autoconvert.errors import CheckFailed
from autoconvert.ir.graph_module import graph_module
from autoconvert.ir.nodes import concrete, type_key
from autoconvert.ir.provenance import operation_in_module, source_line
from autoconvert.ops.attention import HIDES
from autoconvert.rewrite.matching import Match

LENGTH = 7
# Random inputs are of the size of one, and so small that what is added before a division or a root shows.
MAGNITUDES = (1.0, 1e-3)
# Both sides sum in float32 in different orders; widths of 10⁴ stay well below this.
_TOLERANCE = 2e-5
# How far apart two ways of rounding a number near one come.
_NEAR_ONE = 8 * torch.finfo(torch.float32).eps


class RegionCheck:
    """Called with each match before it is replaced; regions of the same structure are executed once.

    `errors` has, by the name of each region's output, the largest difference relative to the largest number there.
    """

    def __init__(self) -> None:
        self.executed = 0
        self.errors: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def __call__(self, graph: fx.GraphModule, match: Match, replacement: fx.GraphModule) -> None:
        """Compares a replacement with what it replaces.

        Raises:
            CheckFailed: it gives other numbers.
            InputError: it cannot be run on numbers.
        """
        region = match.region
        key = f"{match.pattern.name} {match.scalars} {_constants(match)} {_structure(region, match)}"
        if key not in self._seen:
            extracted = graph_module(graph, _extract(region, match))
            self._seen[key] = max(self._execute(extracted, replacement, match, each) for each in MAGNITUDES)
            self.executed += 1
        self.errors[match.output.name] = self._seen[key]

    def _execute(self, region: fx.GraphModule, replacement: fx.GraphModule, match: Match, magnitude: float) -> float:
        generator = torch.Generator().manual_seed(0)
        # A number may pick an entry of any other value.
        sizes = [concrete(size, LENGTH) for node in match.bound.values() for size in node.meta["val"].shape]
        below = min((size for size in sizes if size > 1), default=LENGTH)
        values = {
            node: match.constants.get(name, scaled(random_value(node.meta["val"], generator, below), magnitude))
            for name, node in match.bound.items()
        }
        inputs = {name: values[node] for name, node in match.bound.items()}
        with torch.no_grad():
            expected = region(*inputs.values())
            try:
                actual = replacement(*inputs.values())
            except (Exception, SystemExit) as error:
                raise match.pattern.not_run(error, inputs) from error
        if actual.shape != expected.shape or not same_numbers(actual, expected, magnitude):
            raise CheckFailed(
                f"Pattern {match.pattern.name} ({match.pattern.source}) gives other numbers than what it "
                f"replaces, at {source_line(match.output)}.",
                hint="The pattern is wrong for these shapes: its guard must decline, or `becomes` change.",
                blamed=f"pattern {match.pattern.name}",
                at=operation_in_module(match.output),
                line=source_line(match.output),
            )
        return _difference(actual, expected)


def same_numbers(actual: Tensor, expected: Tensor, magnitude: float = 1.0) -> bool:
    """Whether both sides of a rewrite, of one shape, are as near as float32 comes, of inputs so large.

    Of small ones, either side may come to its result by way of numbers near one, as tanh by a sigmoid.
    """
    expected, actual = (_with_hidden_alike(value) for value in (expected, actual))
    near = _TOLERANCE * _scale(expected) + (_NEAR_ONE if magnitude < 1 else 0.0)
    return torch.allclose(actual, expected, rtol=_TOLERANCE, atol=near, equal_nan=True)


def _difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest number that is expected."""
    expected, actual = (_with_hidden_alike(value) for value in (expected, actual))
    both = expected.isfinite() & actual.isfinite()
    return float((actual - expected)[both].abs().max()) / (_scale(expected) or 1.0) if both.any() else 0.0


def _with_hidden_alike(value: Tensor) -> Tensor:
    """How far down a hidden score lies does not matter, and must not widen what is allowed for the others."""
    return value.masked_fill(value <= HIDES, -torch.inf)


def _scale(expected: Tensor) -> float:
    return float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 1.0


def _constants(match: Match) -> list[str]:
    return [f"{name} {digest(value)}" for name, value in match.constants.items()]


def _structure(region: list[fx.Node], match: Match) -> str:
    index = {node: f"%{i}" for i, node in enumerate([*match.bound.values(), *region])}
    lines = [type_key(node.meta["val"]) for node in match.bound.values()]
    for node in region:
        args = fx.map_arg((node.args, node.kwargs), lambda n: index.get(n, ""))
        lines.append(f"{node.op} {node.target} {args}")
    return "\n".join(lines)


def _extract(region: list[fx.Node], match: Match) -> fx.Graph:
    graph = fx.Graph()
    values: dict[fx.Node, object] = {}
    for name, node in match.bound.items():
        values[node] = graph.placeholder(name)
    for node in region:
        if isinstance(node.meta.get("val"), torch.SymInt):
            values[node] = concrete(node.meta["val"], LENGTH)
        else:
            values[node] = graph.node_copy(node, lambda n: values[n])  # type: ignore[arg-type,return-value]
    graph.output(values[match.output])  # type: ignore[arg-type]
    return graph


def random_value(value: Tensor, generator: torch.Generator, below: int) -> Tensor:
    """A value of that type and shape, its whole numbers in [0, below)."""
    sizes = [concrete(size, LENGTH) for size in value.shape]
    if value.dtype == torch.bool:
        # No row is all open or all closed, so that no softmax is over nothing, whichever of them True means.
        diagonal = torch.eye(*_last_two(sizes), dtype=torch.bool)
        return (torch.rand(sizes, generator=generator) < 0.6) & ~diagonal.roll(1, -1) | diagonal
    if value.is_floating_point() or value.is_complex():
        return torch.randn(sizes, generator=generator, dtype=value.dtype)
    return torch.randint(0, below, sizes, generator=generator, dtype=value.dtype)


def scaled(value: Tensor, magnitude: float) -> Tensor:
    """Numbers so many times as large; what counts or chooses stays as it is."""
    return value * magnitude if value.is_floating_point() or value.is_complex() else value


def _last_two(sizes: list[int]) -> tuple[int, int]:
    rows, columns = [1, 1, *sizes][-2:]
    return rows, columns
