"""Each rule: what is written in many ways becomes one operation, and the numbers stay."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from autoconvert.passes.canonicalize import canonicalize
from autoconvert.rewrite.rule import Rule
from tests import models
from tests.passes.forms import WIDTH, Function, canonicalized, form, operations

aten = torch.ops.aten

NOTHING: dict[str, Function] = {
    "clone": lambda x, m: x.clone(),
    "contiguous": lambda x, m: x.contiguous(),
    "detach": lambda x, m: x.detach(),
    "cast to the same type": lambda x, m: x.to(torch.float32),
    "type of itself": lambda x, m: x.type_as(x),
    "dropout that does nothing": lambda x, m: F.dropout(x, 0.3, training=False),
    "reshape to the same": lambda x, m: x.view(1, -1, WIDTH),
    "there and back": lambda x, m: x.view(1, -1, 2, 4).flatten(2),
    "flattened and back": lambda x, m: x.flatten().view(1, -1, WIDTH),
    "expanded to the same": lambda x, m: x.expand(1, -1, WIDTH),
    "whole slice": lambda x, m: x[:, :, 0:WIDTH],
    "slice of more than there is": lambda x, m: x[..., -20:],
    "squeezed axis of some size": lambda x, m: x.squeeze(-1),
    "times one": lambda x, m: x * 1,
    "plus zero": lambda x, m: x + 0,
    "over one": lambda x, m: x / 1.0,
    "transposed twice": lambda x, m: x.mT.transpose(1, 2),
    "permutation of nothing": lambda x, m: x.permute(0, 1, -1),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_changes_no_value_goes(name: str) -> None:
    assert operations(lambda x, m: NOTHING[name](x, m).relu()) == [aten.relu.default]


KEPT: dict[str, tuple[Function, Any]] = {
    "permutation of three axes": (lambda x, m: x.view(1, -1, 2, 4).permute(0, 3, 1, 2), aten.permute.default),
    "permutation from the end": (
        lambda x, m: x.view(1, -1, 2, 4).permute(0, -1, 1, -2),
        aten.permute.default,
    ),
    "cast to another type": (lambda x, m: x.to(torch.float64).sin().float(), aten._to_copy.default),
    "rounding by a cast": (lambda x, m: x.to(torch.bfloat16).float(), aten._to_copy.default),
    "plus zero of another type": (lambda x, m: (x > 0) + 0, aten.add.Tensor),
    "sum in a wider type": (lambda x, m: x.sum(-1, dtype=torch.float64).float(), aten.sum.dim_IntList),
    "slice with a step": (lambda x, m: x[..., ::2], aten.slice.Tensor),
    "expansion": (lambda x, m: x[:, :, None].expand(-1, -1, 3, -1), aten.expand.default),
    "addition with a factor": (lambda x, m: torch.add(x, x, alpha=2), aten.add.Tensor),
    "power of three": (lambda x, m: x.pow(3), aten.pow.Tensor_Scalar),
    "division by rounding": (lambda x, m: torch.div(x, 2.0, rounding_mode="floor"), aten.div.Tensor_mode),
    "sequence and width exchanged": (lambda x, m: x.mT, aten.transpose.int),
    "square of integers as a fraction": (lambda x, m: x.to(torch.int32).pow(2.0) / 3, aten.pow.Tensor_Scalar),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_changes_values_stays(name: str) -> None:
    function, operation = KEPT[name]
    assert operation in operations(function)


SAME: dict[str, tuple[Function, ...]] = {
    "default axis, counted from either end": (
        lambda x, m: x.topk(2).values,
        lambda x, m: x.topk(2, 2).values,
        lambda x, m: x.topk(2, dim=-1).values,
    ),
    "square": (lambda x, m: x * x, lambda x, m: x.pow(2), lambda x, m: x**2.0, lambda x, m: x.square()),
    "inverse root": (
        lambda x, m: x.abs().add(1.0).rsqrt(),
        lambda x, m: x.abs().add(1.0).pow(-0.5),
        lambda x, m: 1 / x.abs().add(1.0).sqrt(),
        lambda x, m: torch.reciprocal(x.abs().add(1.0) ** 0.5),
    ),
    "over a root": (
        lambda x, m: x * x.abs().add(1.0).rsqrt(),
        lambda x, m: x / x.abs().add(1.0).sqrt(),
        lambda x, m: x / x.abs().add(1.0) ** 0.5,
    ),
    "half": (lambda x, m: x * 0.5, lambda x, m: x / 2, lambda x, m: x / 2.0),
    "transposed": (
        lambda x, m: x.mT.relu(),
        lambda x, m: x.transpose(1, 2).relu(),
        lambda x, m: x.transpose(-1, -2).relu(),
        lambda x, m: x.permute(0, 2, 1).relu(),
    ),
    "linear": (
        lambda x, m: F.linear(x, m.t()),
        lambda x, m: x @ m,
        lambda x, m: torch.matmul(x, m),
    ),
    "linear of the transposed": (
        lambda x, m: F.linear(x, m),
        lambda x, m: x @ m.t(),
        lambda x, m: torch.matmul(x, m.mT),
    ),
    "first half": (
        lambda x, m: x[..., : WIDTH // 2].relu(),
        lambda x, m: x[:, :, 0:-4].relu(),
        lambda x, m: x.chunk(2, -1)[0].relu(),
        lambda x, m: x.split(4, dim=2)[0].relu(),
        lambda x, m: x.split([4, 4], -1)[0].relu(),
    ),
    "second half": (
        lambda x, m: x[..., WIDTH // 2 :].relu(),
        lambda x, m: x[..., -4:].relu(),
        lambda x, m: x.chunk(2, -1)[1].relu(),
    ),
    "heads": (
        lambda x, m: x.reshape(1, -1, 2, 4).relu(),
        lambda x, m: x.view(1, x.shape[1], 2, 4).relu(),
        lambda x, m: x.unflatten(-1, (2, 4)).relu(),
        lambda x, m: x.unflatten(2, (2, -1)).relu(),
    ),
    "mean": (
        lambda x, m: x.mean(-1, keepdim=True),
        lambda x, m: x.mean(2, True),
        lambda x, m: x.mean(dim=(-1,), keepdim=True, dtype=torch.float32),
    ),
    "softmax": (
        lambda x, m: x.softmax(-1),
        lambda x, m: F.softmax(x, dim=2),
        lambda x, m: torch.softmax(x, -1, torch.float32),
    ),
    "masked": (
        lambda x, m: x.masked_fill(x > 0, -1.0),
        lambda x, m: x.masked_fill(x > 0, -1),
    ),
    "layer norm with its usual epsilon": (
        lambda x, m: F.layer_norm(x, (WIDTH,)),
        lambda x, m: F.layer_norm(x, x.shape[-1:], eps=1e-5),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_variants_become_one(name: str) -> None:
    first, *others = SAME[name]
    assert [form(other) for other in others] == [form(first)] * len(others)


def test_dropout_that_does_something_stays() -> None:
    assert any("dropout" in str(name) for name in operations(lambda x, m: F.dropout(x, 1.0, training=True)))


def test_product_of_two_activations_is_no_linear() -> None:
    assert aten.linear.default not in operations(lambda x, m: x @ x.mT)


def test_matrix_product_with_bias_is_linear() -> None:
    found = operations(lambda x, m: torch.addmm(m[0], x[0], m))
    assert aten.linear.default in found
    assert aten.addmm.default not in found


def test_equal_computations_are_shared() -> None:
    assert operations(lambda x, m: (x + 1.0).relu() * (x + 1.0).relu()).count(aten.add.Tensor) == 1


def test_computations_that_differ_in_a_number_are_not_shared() -> None:
    assert operations(lambda x, m: (x + 1.0) * (x + 2.0)).count(aten.add.Tensor) == 2


def test_axes_count_from_the_end() -> None:
    graph = canonicalized(lambda x, m: torch.cat((x, x), 2).unsqueeze(0).sum(1))[0].graph
    axes = {node.target: node.args[1] for node in graph.nodes if node.op == "call_function"}
    assert axes == {aten.cat.default: -1, aten.unsqueeze.default: -4, aten.sum.dim_IntList: [-3]}


def test_shapes_are_known_after_every_rule() -> None:
    graph = canonicalized(
        lambda x, m: (x / 2).view(1, -1, 2, 4).permute(0, 2, 1, 3).pow(2).masked_fill(x.sum() > 0, 1)
    )[0]
    assert all("val" in node.meta for node in graph.graph.nodes if node.op != "output")
    assert models.shapes(graph)["transpose"] == ["1", "2", "s", "4"]


@pytest.mark.parametrize("function", [*(ways[0] for ways in SAME.values()), *(way for way, _ in KEPT.values())])
def test_no_rule_applies_to_what_is_canonical(function: Function) -> None:
    graph, _ = canonicalized(function)
    before = str(graph.graph)
    canonicalize(graph, {node.name for node in graph.graph.find_nodes(op="placeholder")} - {"x"}, fail)
    assert str(graph.graph) == before


def fail(rule: Rule, node: fx.Node, new: fx.Node) -> None:
    raise AssertionError(f"{rule.name} applies to {node.format_node()}")
