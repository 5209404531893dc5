"""Ranges hold whatever is computed: results of numbers between the bounds lie in the range of the result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.analysis.intervals import Interval, whole
from autoconvert.analysis.ranges import ranges
from autoconvert.ir.editing import traced
from autoconvert.ir.nodes import named_results
from autoconvert.passes.canonicalize import canonicalize

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda x, y: x + 3 * y,
    "difference with a factor": lambda x, y: torch.sub(x, y, alpha=-5),
    "number less": lambda x, y: 7 - x,
    "product": lambda x, y: x * y,
    "floor of quotient": lambda x, y: x // (y.abs() + 2),
    "floor of quotient by any": lambda x, y: x // torch.where(y == 0, 1, y),
    "quotient toward zero": lambda x, y: torch.div(x, y.abs() + 1, rounding_mode="trunc"),
    "quotient by a number": lambda x, y: torch.div(x, 7, rounding_mode="trunc"),
    "remainder": lambda x, y: x % 7 + x % -5,
    "remainder of another": lambda x, y: x % (y.abs() + 1),
    "remainder toward zero": lambda x, y: torch.fmod(x, 7),
    "absolute": lambda x, y: x.abs() - y.abs(),
    "clamped": lambda x, y: x.clamp(-3, 4) + y.clamp(min=2) - y.clamp(max=-2),
    "clamped by another": lambda x, y: torch.clamp(x, min=y),
    "larger and smaller": lambda x, y: torch.maximum(x, y) * torch.minimum(x, y),
    "cumulative": lambda x, y: x.cumsum(1) + y.sum(1, keepdim=True),
    "matrices": lambda x, y: x @ y.transpose(0, 1),
    "power": lambda x, y: x**3 + y**2,
    "bits": lambda x, y: (x & 12) + (y.abs() | 3) + (x.abs() ^ y.abs()) + ~x,
    "shifts": lambda x, y: (x << 3) + (y >> 2),
    "choice": lambda x, y: torch.where(x > y, x, y - 100),
    "filled": lambda x, y: x.masked_fill(y > 0, 99),
    "cast": lambda x, y: (x.float() / 7).to(torch.int64) + (y.float() * 0.5).round().long(),
    "places": lambda x, y: x.topk(2)[1] + y.argmax(1, keepdim=True) + x.sort()[1][:, :2],
    "largest": lambda x, y: x.amax(1) + y.max(1)[0],
    "truth": lambda x, y: (x > y).long().cumsum(1),
    "joined": lambda x, y: torch.cat([x, y + 50], 1),
    "looked up": lambda x, y: torch.tensor([5, -8, 3])[y.abs() % 3] + x,
    "added into": lambda x, y: torch.zeros_like(x).scatter_add(1, x.abs() % 4, y),
}
BOUNDS = {"both signs": ((-9, 6), (-4, 11)), "positive": ((2, 9), (1, 5)), "negative": ((-9, -2), (-7, -3))}


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_lie_in_their_range(name: str, bounds: str) -> None:
    generator = torch.Generator().manual_seed(0)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        values = {key: mode.from_tensor(torch.zeros(4, 4, dtype=torch.int64)) for key in "xy"}
    graph = canonicalize(traced(lambda x, y: {"result": FUNCTIONS[name](x, y)}, values))
    placeholders: dict[str, fx.Node] = {str(n.target): n for n in graph.graph.find_nodes(op="placeholder")}
    inputs: dict[fx.Node, Interval] = {
        placeholders[key]: whole(*between)
        for key, between in zip("xy", BOUNDS[bounds], strict=True)
        if key in placeholders
    }
    found = ranges(graph, inputs, 4)
    results = named_results(graph.graph)["result"]
    for _ in range(50):
        given = {
            key: torch.randint(low, high + 1, (4, 4), generator=generator)
            for key, (low, high) in zip("xy", BOUNDS[bounds], strict=True)
        }
        result = FUNCTIONS[name](given["x"], given["y"])
        assert found[results].low <= int(result.min()) and int(result.max()) <= found[results].high
    assert found[results].size < 2**20
