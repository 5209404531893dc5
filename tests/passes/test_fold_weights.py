"""What depends on parameters alone becomes a weight with a program, and what on nothing a constant."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.ir.program import Program
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.fold_weights import fold_weights
from tests import models
from tests.models import WIDTH, Change, Decoder


def bound(module: Decoder) -> Program:
    program = models.traced(module)
    return fold_weights(program.with_graph(canonicalize(program.graph, program.weights)))


EXPRESSIONS: dict[str, tuple[Change, object]] = {
    "one more than a weight": (lambda d, x: x * (1 + d.gain), lambda d: 1 + d.gain),
    "transposed matrix": (lambda d, x: x @ d.square, lambda d: d.square.T),
    "matrix product with bias": (
        lambda d, x: torch.addmm(d.gain, x[0], d.square)[None],
        lambda d: d.square.T,
    ),
    "part of a fused projection": (
        lambda d, x: F.linear(x, d.rows.chunk(8)[3]),
        lambda d: d.rows[24:32],
    ),
    "two weights": (lambda d, x: x * (d.gain * d.offset.exp()), lambda d: d.gain * d.offset.exp()),
    "merged adapter": (
        lambda d, x: F.linear(x, d.square + d.query.weight @ d.key.weight * 0.5),
        lambda d: d.square + d.query.weight @ d.key.weight * 0.5,
    ),
    "weight and constant": (
        lambda d, x: x * (d.gain * torch.arange(WIDTH)),
        lambda d: d.gain * torch.arange(WIDTH),
    ),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_becomes_a_weight_with_the_right_value(name: str) -> None:
    mix, expected = EXPRESSIONS[name]
    module = Decoder(mix)
    program = bound(module)
    (lifted,) = [weight for weight in program.weights.values() if weight.program is not None]
    with torch.no_grad():
        value = expected(module)  # type: ignore[operator]
    torch.testing.assert_close(lifted.evaluate(models.weights_of(module).read), value)
    assert lifted.shape == tuple(value.shape)
    tokens = models.random_ids()
    models.assert_same(models.execute(program, module, tokens)["logits"][0], models.logits_of_source(module, tokens))


def test_weights_are_exactly_the_inputs_that_the_graph_uses() -> None:
    program = bound(Decoder(lambda d, x: x * (1 + d.gain)))
    inputs = {str(node.target) for node in program.graph.graph.find_nodes(op="placeholder")} - {
        "tokens",
        "positions",
    }
    assert inputs == set(program.weights)
    assert "gain" not in inputs
    assert "offset" not in inputs


def test_a_weight_as_it_is_has_no_program() -> None:
    weight = bound(Decoder()).weights["embed_weight"]
    assert weight.program is None
    assert weight.sources == ("embed.weight",)


def test_a_tied_head_written_as_a_product_is_the_embedding_itself() -> None:
    class Tied(Decoder):
        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.embed(tokens) @ self.embed.weight.t()
            return logits

    assert [weight.program for weight in bound(Tied()).weights.values()] == [None]


def test_an_expression_inside_another_that_is_used_by_itself_too() -> None:
    module = Decoder(lambda d, x: x * (d.gain * 2) + x * (d.gain * 2 + 1))
    program = bound(module)
    tokens = models.random_ids()
    models.assert_same(models.execute(program, module, tokens)["logits"][0], models.logits_of_source(module, tokens))


def test_constants_are_computed_once() -> None:
    program = bound(Decoder(lambda d, x: x * (torch.arange(WIDTH) * 0.5).cos()))
    operations = {str(node.target) for node in program.graph.graph.nodes}
    assert not {"aten.arange.default", "aten.cos.default"} & operations
