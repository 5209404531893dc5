"""Every pattern: the same numbers on both sides, found in its variants, not in what is near."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.check.pattern import canonicalized, matches_in
from autoconvert.check.region import same_numbers
from autoconvert.ir.fusion import NearMiss
from autoconvert.ir.program import Program
from autoconvert.passes.fuse import fuse
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.matching import Match
from autoconvert.rewrite.pattern import Pattern
from autoconvert.testing import check

BY_NAME = {pattern.name: pattern for pattern in PATTERNS}
ACTIVATION_OPERATIONS = {torch.ops.aten.gelu.default, torch.ops.aten.silu.default}


def example(pattern: Pattern) -> dict[str, Any]:
    return pattern.inputs()


def matches(pattern: Pattern, function: Callable[..., Tensor], values: dict[str, Any]) -> list[Match]:
    return [result for result in matches_in(pattern, function, values) if isinstance(result, Match)]


def reason(pattern: Pattern, function: Callable[..., Tensor], values: dict[str, Any]) -> str:
    misses = [miss for miss in matches_in(pattern, function, values) if isinstance(miss, NearMiss)]
    return max(misses, key=lambda miss: miss.matched).reason


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(PATTERNS)


@pytest.mark.parametrize("name", BY_NAME)
def test_pattern_holds_alone(name: str) -> None:
    check(BY_NAME[name])


@pytest.mark.parametrize("name", BY_NAME)
def test_both_sides_are_the_same_function_in_double_precision(name: str) -> None:
    def double(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    pattern = BY_NAME[name]
    values = {key: double(value) for key, value in example(pattern).items()}
    torch.testing.assert_close(pattern.becomes(**values), pattern.matches(**values), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BY_NAME)
def test_pattern_is_found_once_in_its_own_function_and_captures_its_numbers(name: str) -> None:
    pattern, values = BY_NAME[name], example(BY_NAME[name])
    (match,) = matches(pattern, pattern.matches, values)
    assert match.scalars == {key: value for key, value in values.items() if not isinstance(value, Tensor)}
    assert {key: str(node.target) for key, node in match.bound.items()} == {
        key: key for key, value in values.items() if isinstance(value, Tensor)
    }


@pytest.mark.parametrize("name", BY_NAME)
def test_the_order_of_patterns_does_not_change_what_a_block_computes(name: str) -> None:
    pattern, values = BY_NAME[name], example(BY_NAME[name])
    numbers = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    expected = pattern.matches(**values)
    for order in (PATTERNS, PATTERNS[::-1]):
        program = Program(canonicalized(pattern.matches, {**values, **numbers}))
        fused = fuse(program, order, lambda *_: None)
        assert fused.fusion.patterns, "nothing was fused"
        assert same_numbers(fused.graph(*tensors), expected)


@dataclass(frozen=True)
class Variant:
    """Another way to write what `pattern` matches, or something near it that it must not match."""

    pattern: str
    function: Callable[..., Tensor]
    changes: tuple[tuple[str, Any], ...] = ()

    def values(self) -> dict[str, Any]:
        return {**example(BY_NAME[self.pattern]), **dict(self.changes)}


def _tiled(x: Tensor) -> Tensor:
    """Heads 0 1 0 1 0 1 instead of 0 0 0 1 1 1."""
    batch, groups, length, width = x.shape
    return x[:, None].expand(batch, 3, groups, length, width).reshape(batch, -1, length, width)


def _silu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.linear(x, up) * F.silu(F.linear(x, gate)), down)


SAME: dict[str, Variant] = {
    "rms: power, weight first": Variant(
        "rms_norm", lambda x, weight, eps: weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
    ),
    "rms: divided by a root": Variant(
        "rms_norm", lambda x, weight, eps: x / torch.sqrt(eps + x.square().mean(2, keepdim=True)) * weight
    ),
    "rms: root as a power": Variant(
        "rms_norm", lambda x, weight, eps: (x.pow(2).mean((-1,), True) + eps).pow(-0.5) * x * weight
    ),
    "rms: reciprocal of a root": Variant(
        "rms_norm", lambda x, weight, eps: x * (1 / ((x * x).mean(-1, keepdim=True) + eps).sqrt()) * weight
    ),
    "rms: casts to the same type": Variant(
        "rms_norm",
        lambda x, weight, eps: weight * (x.float() * (x.float() ** 2).mean(-1, True).add(eps).rsqrt()).to(x.dtype),
    ),
    "rms: mean with a type": Variant(
        "rms_norm.without_weight",
        lambda x, eps: x * torch.rsqrt((x * x).mean(-1, keepdim=True, dtype=torch.float32) + eps),
    ),
    "rms: of four axes": Variant(
        "rms_norm.native", BY_NAME["rms_norm.native"].matches, (("x", torch.randn(1, 5, 3, 14)),)
    ),
    "rms: epsilon of the type": Variant(
        "rms_norm.native",
        lambda x, weight, eps: F.rms_norm(x, (14,), weight),
        (("eps", torch.finfo(torch.float32).eps),),
    ),
    "layer norm: module": Variant("layer_norm", lambda x, weight, bias, eps: F.layer_norm(x, (14,), weight, bias)),
    "layer norm: power": Variant(
        "layer_norm.written_out",
        lambda x, weight, bias, eps: (
            bias + weight * ((x - x.mean(-1, True)) / torch.sqrt((x - x.mean(-1, True)).pow(2).mean(-1, True) + eps))
        ),
    ),
    "layer norm: of the biased variance": Variant(
        "layer_norm.written_out",
        lambda x, weight, bias, eps: (
            (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt() * weight + bias
        ),
    ),
    "layer norm: module without a bias": Variant(
        "layer_norm.without_bias",
        lambda x, weight, eps: F.layer_norm(x, weight.shape, weight, None, eps),
    ),
    "rms: module without a weight": Variant(
        "rms_norm.native.without_weight", lambda x, eps: F.rms_norm(x, (14,), eps=eps)
    ),
    "gelu: of the new kind": Variant(
        "gelu_tanh",
        lambda x, inner, cube: (x * 0.5) * (1 + torch.tanh((x + 0.044715 * x.pow(3)) * 0.7978845608028654)),
    ),
    "gelu: of numbers that are cut off": Variant(
        "gelu_tanh.factored",
        lambda x, inner, cube: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    ),
    "gated: one matrix, split": Variant(
        "gated_feed_forward.silu.fused",
        lambda x, gate_up, down: F.linear(
            torch.split(F.linear(x, gate_up), 22, -1)[1] * F.silu(torch.split(F.linear(x, gate_up), 22, -1)[0]), down
        ),
    ),
    "rotary: chunked": Variant(
        "rotary.half",
        lambda x, cos, sin: sin * torch.cat((x.chunk(2, -1)[1].neg(), x.chunk(2, -1)[0]), 3) + cos * x,
    ),
    "rotary: split": Variant(
        "rotary.half",
        lambda x, cos, sin: x * cos + torch.cat((-x.split(7, 3)[1], x.split(7, 3)[0]), -1) * sin,
    ),
    "rotary: counted from the end": Variant(
        "rotary.half",
        lambda x, cos, sin: x * cos + torch.cat((-x[..., -7:], x[..., :-7]), -1) * sin,
    ),
    "rotary: before the transpose": Variant(
        "rotary.half",
        BY_NAME["rotary.half"].matches,
        (("x", torch.randn(1, 5, 3, 14)), ("cos", torch.randn(1, 5, 1, 14)), ("sin", torch.randn(1, 5, 1, 14))),
    ),
    "rotary: every two of a table of halves": Variant(
        "rotary.interleaved",
        lambda x, cos, sin: cos * x + torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).reshape_as(x) * sin,
    ),
    "rotary: pairs on an axis of their own": Variant(
        "rotary.interleaved.halves",
        lambda x, cos, sin: torch.stack(
            (
                x.view(1, 3, 5, 7, 2)[..., 0] * cos - x.view(1, 3, 5, 7, 2)[..., 1] * sin,
                x.view(1, 3, 5, 7, 2)[..., 0] * sin + x.view(1, 3, 5, 7, 2)[..., 1] * cos,
            ),
            dim=4,
        ).view(1, 3, 5, 14),
    ),
    "rotary: complex": Variant(
        "rotary.interleaved.halves",
        lambda x, cos, sin: torch.view_as_real(
            torch.view_as_complex(x.reshape(1, 3, 5, -1, 2)) * torch.complex(cos, sin)
        ).flatten(3),
    ),
    "rotary: halves on an axis of their own": Variant(
        "rotary.half.halves",
        lambda x, cos, sin: torch.cat(
            (
                x.view(1, 3, 5, 2, 7)[..., 0, :] * cos - sin * x.view(1, 3, 5, 2, 7)[..., 1, :],
                sin * x.view(1, 3, 5, 2, 7)[..., 0, :] + cos * x.view(1, 3, 5, 2, 7)[..., 1, :],
            ),
            -1,
        ),
    ),
    "gated: operands exchanged": Variant("gated_feed_forward.silu", _silu),
    "gated: matrices transposed": Variant(
        "gated_feed_forward.gelu_tanh",
        lambda x, gate, up, down: F.linear(F.gelu(F.linear(x, gate), approximate="tanh") * F.linear(x, up), down),
    ),
}

NEAR: dict[str, Variant] = {
    "attention: heads in another order": Variant(
        "attention.shared",
        lambda query, key, value, mask, scale, softcap: ops.attention(
            query, _tiled(key), _tiled(value), mask, scale, False, softcap=softcap
        ),
    ),
    "attention: keys of another head than values": Variant(
        "attention.shared",
        lambda query, key, value, mask, scale, softcap: ops.attention(
            query, key.repeat_interleave(3, 1), _tiled(value), mask, scale, False, softcap=softcap
        ),
    ),
    "rms: no epsilon": Variant(
        "rms_norm", lambda x, weight, eps: x * torch.rsqrt((x * x).mean(-1, keepdim=True)) * weight
    ),
    "rms: another axis": Variant(
        "rms_norm",
        lambda x, weight, eps: x * torch.rsqrt((x * x).mean(1, keepdim=True) + eps) * weight,
    ),
    "rms: epsilon twice": Variant(
        "rms_norm", lambda x, weight, eps: x * torch.rsqrt((x * x).mean(-1, True) + eps + eps) * weight
    ),
    "rms: sum": Variant("rms_norm", lambda x, weight, eps: x * torch.rsqrt((x * x).sum(-1, True) + eps) * weight),
    "rms: of something else": Variant(
        "rms_norm", lambda x, weight, eps: (x + 1) * torch.rsqrt((x * x).mean(-1, True) + eps) * weight
    ),
    "rms: over two axes": Variant(
        "rms_norm.native",
        lambda x, weight, eps: F.rms_norm(x, x.shape[-2:], weight.expand(5, -1), eps),
    ),
    "layer norm: over two axes": Variant(
        "layer_norm",
        lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-2:], weight.expand(5, -1), bias.expand(5, -1), eps),
    ),
    "layer norm: not centred twice": Variant(
        "layer_norm.written_out",
        lambda x, weight, bias, eps: (x - x.mean(-1, True)) * torch.rsqrt((x * x).mean(-1, True) + eps) * weight + bias,
    ),
    "rotary: other sign": Variant(
        "rotary.half", lambda x, cos, sin: x * cos + torch.cat((x[..., 7:], -x[..., :7]), -1) * sin
    ),
    "rotary: no sign": Variant(
        "rotary.half", lambda x, cos, sin: x * cos + torch.cat((x[..., 7:], x[..., :7]), -1) * sin
    ),
    "rotary: subtracted": Variant(
        "rotary.half", lambda x, cos, sin: x * cos - torch.cat((-x[..., 7:], x[..., :7]), -1) * sin
    ),
    "rotary: unequal parts": Variant(
        "rotary.half", lambda x, cos, sin: x * cos + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin
    ),
    "rotary: a gap between the parts": Variant(
        "rotary.half",
        lambda x, cos, sin: x * cos + torch.cat((-x[..., 7:], x[..., 1:8]), -1) * sin,
    ),
    "rotary: neighbours the wrong way round": Variant(
        "rotary.interleaved",
        lambda x, cos, sin: x * cos + torch.stack((x[..., 1::2], -x[..., ::2]), -1).flatten(-2) * sin,
    ),
    "rotary: neighbours with halves": Variant(
        "rotary.interleaved", lambda x, cos, sin: x * cos + torch.cat((-x[..., 1::2], x[..., ::2]), -1) * sin
    ),
    "rotary: every third": Variant(
        "rotary.interleaved_to_half",
        lambda x, cos, sin: torch.cat(
            (x[..., ::3] * cos - x[..., 1::3] * sin, x[..., 1::3] * cos + x[..., ::3] * sin), -1
        ),
        (("cos", torch.randn(5)), ("sin", torch.randn(5))),
    ),
    "rotary: turned the other way in one half": Variant(
        "rotary.half.halves",
        lambda x, cos, sin: torch.cat((x[..., :7] * cos + x[..., 7:] * sin, x[..., 7:] * cos + x[..., :7] * sin), -1),
    ),
    "rotary: sine and cosine exchanged in one half": Variant(
        "rotary.half.halves",
        lambda x, cos, sin: torch.cat((x[..., :7] * cos - x[..., 7:] * sin, x[..., 7:] * sin + x[..., :7] * cos), -1),
    ),
    "gelu: of another number": Variant("gelu_tanh", BY_NAME["gelu_tanh"].matches, (("cube", 0.044),)),
    "gated: gate behind": Variant(
        "gated_feed_forward.silu.fused",
        lambda x, gate_up, down: F.linear(
            F.linear(x, gate_up)[..., :22] * F.silu(F.linear(x, gate_up)[..., 22:]), down
        ),
    ),
    "gated: a part left out": Variant(
        "gated_feed_forward.silu.fused",
        lambda x, gate_up, down: F.linear(
            F.silu(F.linear(x, gate_up)[..., :22]) * F.linear(x, gate_up)[..., 22:44], down
        ),
        (("gate_up", torch.randn(50, 14)),),
    ),
    "gated: the same matrix for another": Variant(
        "gated_feed_forward.silu",
        lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate)) * x.sum(-1, True), down),
    ),
    "gated: activation of both": Variant(
        "gated_feed_forward.silu",
        lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate) * F.linear(x, up)), down),
    ),
    "gated: summed": Variant(
        "gated_feed_forward.silu",
        lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate)) + F.linear(x, up), down),
    ),
    "gated: exact for tanh": Variant("gated_feed_forward.gelu_tanh", BY_NAME["gated_feed_forward.gelu"].matches),
}


@pytest.mark.parametrize("name", SAME)
def test_another_variant_is_found_and_means_the_same(name: str) -> None:
    variant = SAME[name]
    pattern, values = BY_NAME[variant.pattern], variant.values()
    (match,) = matches(pattern, variant.function, values)
    bound = {key: values[str(node.target)] for key, node in match.bound.items()}
    expected = variant.function(**values)
    torch.testing.assert_close(pattern.becomes(**bound, **match.scalars), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NEAR)
def test_what_is_only_near_is_not_found(name: str) -> None:
    variant = NEAR[name]
    assert not matches(BY_NAME[variant.pattern], variant.function, variant.values())


def test_a_counted_epsilon_is_the_product_in_what_replaces_the_norm() -> None:
    (match,) = matches(
        BY_NAME["rms_norm"],
        lambda x, weight, eps: x * torch.rsqrt(torch.add((x * x).mean(-1, True), eps, alpha=2)) * weight,
        NEAR["rms: sum"].values(),
    )
    assert match.scalars["eps"] == 2 * NEAR["rms: sum"].values()["eps"]


GUARDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "weight of a norm": ("rms_norm", {"weight": torch.randn(1, 5, 14)}, "weight has the shape [1, 5, 14], not [14]"),
    "bias of a norm": ("layer_norm.written_out", {"bias": torch.randn(5, 14)}, "bias has the shape [5, 14], not [14]"),
    "keys without a batch": (
        "attention.native",
        {name: torch.randn(6, 5, 14) for name in ("query", "key", "value")} | {"mask": torch.randn(5, 5)},
        "not [batch, heads, sequence, width]",
    ),
    "heads that share no whole number of keys": (
        "attention.written_out",
        {"key": torch.randn(4, 6, 9, 14), "value": torch.randn(4, 1, 9, 22)},
        "6 query heads do not share 6 keys and 1 values evenly",
    ),
    "other rows than the sequence": (
        "attention_scores.product",
        {"query": torch.randn(4, 6, 5, 14)},
        "5 queries meet 9 keys",
    ),
    "weak mask": ("attention_scores.filled", {"fill": -3.0}, "become -3.0, which hides nothing"),
    "floor above what is hidden": ("attention_scores.floored", {"floor": -3.0}, "at least -3.0, which lifts some"),
    "weak mask beside a bias": ("attention.biased_by_key", {"fill": -3.0}, "where -3.0 is to hide"),
    "mask that is no number": ("attention_scores.masked", {"mask": torch.ones(5, 9) > 0}, "no number"),
    "mask of more axes": (
        "attention_scores.masked",
        {"mask": torch.randn(2, 1, 1, 5, 9)},
        "is larger than the scores",
    ),
}


@pytest.mark.parametrize("name", GUARDS)
def test_guard_declines_with_its_reason(name: str) -> None:
    pattern, changes, expected = GUARDS[name]
    values = {**example(BY_NAME[pattern]), **changes}
    assert expected in reason(BY_NAME[pattern], BY_NAME[pattern].matches, values)


def test_replacement_is_made_with_a_semantic_operation() -> None:
    for pattern in PATTERNS:
        graph = canonicalized(pattern.becomes, example(pattern)).graph
        semantic = [node for node in graph.nodes if node.target in {*ops.BODIES, *ACTIVATION_OPERATIONS}]
        assert semantic, pattern.name


def test_a_guard_is_asked_with_what_was_bound() -> None:
    asked: dict[str, Any] = {}

    def guard(**bound: Any) -> str:
        asked.update(bound)
        return "never"

    pattern = replace(BY_NAME["rms_norm"], guard=guard)
    assert reason(pattern, pattern.matches, example(pattern)) == "never"
    assert asked["eps"] == 1e-6
    assert tuple(asked["x"].shape) == (1, 5, 14)
