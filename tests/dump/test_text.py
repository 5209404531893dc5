"""The text of a dump: a line a node; layers are folded where they are the same, and nowhere else."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoconvert.dump.folding import numbers
from autoconvert.dump.snapshot import Photographer
from autoconvert.dump.text import text
from tests.models import Decoder, traced

Layer = Callable[[int], nn.Module]


class Scaled(nn.Module):
    """A matrix, an addition, and a constant."""

    def __init__(self, width: int = 8, factor: float = 2.0, shift: Tensor | None = None) -> None:
        super().__init__()
        self.up, self.down, self.factor = nn.Linear(8, width), nn.Linear(width, 8), factor
        self.register_buffer("shift", torch.arange(8.0) if shift is None else shift)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x * self.factor)) if self.factor else self.up(x)) + self.shift


class Stacked(Decoder):
    """Layers one after the other behind the decoder's attention."""

    def __init__(self, count: int, layer: Layer) -> None:
        super().__init__(mix=lambda _, x: self.run(x))
        self.layers = nn.ModuleList(layer(index) for index in range(count))

    def run(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def text_of(module: nn.Module) -> str:
    return text("00-trace", Photographer({}, {})(traced(module)).entries)


def test_a_line_says_what_a_node_is_and_where_it_comes_from() -> None:
    lines = [line.strip() for line in text_of(Stacked(1, lambda _: Scaled())).splitlines()]
    (at,) = [index for index, line in enumerate(lines) if line.startswith("%layers_0_tanh =")]
    what, origin = lines[at].split("  # ")
    assert what == "%layers_0_tanh = tanh(%layers_0_up_linear) : f32[1, s, 8]"
    assert origin.startswith("test_text.py:")
    assert next(line for line in reversed(lines[:at]) if line.startswith("# ")) == "# layers/0"


class Averaged(nn.Module):
    """An operation with arguments of every kind."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x - x.mean(-1, True), torch.ones_like(x) * 2.0], -1)[..., :8]


def test_arguments_that_are_no_operands_are_named() -> None:
    written = text_of(Stacked(1, lambda _: Averaged()))
    assert "= mean(%add, dim=[-1], keepdim=True)" in written
    assert re.search(r"= mul\(%\w+, 2\.0\)", written)
    assert re.search(r"= cat\(\[%\w+, %\w+\], dim=-1\)", written)
    assert re.search(r"= slice\(%\w+, dim=2, start=0, end=8\)", written)


def test_identical_layers_are_shown_once() -> None:
    written = text_of(Stacked(5, lambda _: Scaled()))
    assert "layers: layers 1–4 like layer 0" in written
    assert "%layers_{i-1}_add_1 where that reads %add" in written
    assert "%layers_0_tanh" in written and "%layers_1_tanh" not in written


def test_layers_that_alternate_are_like_the_last_of_their_kind() -> None:
    written = text_of(Stacked(6, lambda index: Scaled(factor=2.0 + index % 2)))
    assert "layers: layers 2, 4 like layer 0" in written
    assert "layers: layers 3, 5 like layer 1" in written


@pytest.mark.parametrize(
    "changed",
    [
        lambda: Scaled(width=6),
        lambda: Scaled(factor=2.0000001),
        lambda: Scaled(factor=0.0),
        lambda: Scaled(shift=torch.arange(8.0) * (1 + 1e-6)),
        lambda: Scaled(shift=torch.arange(8)),
    ],
    ids=["shape", "number", "operation", "constant", "dtype"],
)
def test_a_layer_that_differs_is_shown(changed: Callable[[], nn.Module]) -> None:
    written = text_of(Stacked(4, lambda index: changed() if index == 2 else Scaled()))
    assert "layers: layers 1, 3 like layer 0" in written
    assert "layers/2:" in written and "%layers_2_up_linear" in written


def test_a_layer_that_reads_another_value_is_shown() -> None:
    class Skipping(Stacked):
        def run(self, x: Tensor) -> Tensor:
            first = x
            for index, layer in enumerate(self.layers):
                x = layer(x + first if index == 2 else x)
            return x

    written = text_of(Skipping(4, lambda _: Scaled()))
    assert "layers: layers 1, 3 like layer 0" in written
    assert "%layers_2_up_linear" in written and "%layers_3_up_linear" not in written


def test_what_several_layers_read_of_one_stands_alone() -> None:
    class Sharing(nn.Module):
        def forward(self, x: Tensor, shared: list[Tensor]) -> Tensor:
            if not shared:
                shared.append(torch.tanh(x))
            return torch.relu(x) * shared[0]

    class Holding(Stacked):
        def run(self, x: Tensor) -> Tensor:
            shared: list[Tensor] = []
            for layer in self.layers:
                x = layer(x, shared)
            return x

    written = text_of(Holding(4, lambda _: Sharing()))
    assert "layers: layers 1–3 like layer 0" in written
    assert "\n%layers_0_tanh = " in written


def test_numbers_are_runs_where_there_are_three() -> None:
    assert numbers([1, 2, 3, 7]) == "1–3, 7"
    assert numbers([2, 4]) == "2, 4"
    assert numbers([1, 2]) == "1, 2"
