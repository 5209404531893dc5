"""Multiply-adds of nodes, by the shapes of what they multiply."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.analysis.multiply_adds import MultiplyAdds
from tests.models import HEADS, WIDTH, Decoder, traced


def counts(module: nn.Module, length: int = 1) -> dict[str, int]:
    program, count = traced(module), MultiplyAdds(length)
    found = {node.name: count(node, program.graph) for node in program.graph.graph.nodes}
    return {name: multiply_adds for name, multiply_adds in found.items() if multiply_adds}


def test_products_are_counted_and_nothing_else() -> None:
    found = counts(Decoder(mix=lambda _, x: torch.tanh(x) * x))
    width = WIDTH // HEADS
    assert sorted(found.values()) == sorted([2 * HEADS * width, *[WIDTH * WIDTH] * 3, WIDTH * 31])


def test_they_grow_with_the_length() -> None:
    once, thrice = counts(Decoder()), counts(Decoder(), 3)
    attention = next(name for name in once if "attention" in name)
    assert thrice.pop(attention) == 9 * once.pop(attention)
    assert thrice == {name: 3 * count for name, count in once.items()}


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (lambda decoder, x: x @ decoder.square, WIDTH * WIDTH),
        (lambda decoder, x: torch.einsum("bsi,ij->bsj", x, decoder.square), WIDTH * WIDTH),
        (lambda decoder, x: F.conv1d(x.mT, decoder.square[:, :, None]).mT, WIDTH * WIDTH),
    ],
    ids=["matmul", "einsum", "convolution"],
)
def test_every_way_to_multiply_counts(mix: Callable[[Decoder, Tensor], Tensor], expected: int) -> None:
    plain, with_it = counts(Decoder()), counts(Decoder(mix=mix))
    assert sum(with_it.values()) - sum(plain.values()) == expected
