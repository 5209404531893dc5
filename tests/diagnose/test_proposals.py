"""A proposal gives the numbers of the block exactly, or there is none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.diagnose.proposals import proposal
from autoconvert.rewrite.pattern import Example, Pattern

WIDE: Example = {"x": (1, 5, 8), "gain": (8,)}


def _outside(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / ((x * x).mean(-1, keepdim=True).sqrt() + eps) * gain


def _inside(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / ((x * x).sum(-1, keepdim=True) + eps).sqrt() * gain


def _times_a_number(x: Tensor, gain: Tensor, eps: float, root: float) -> Tensor:
    return F.normalize(x, dim=-1, eps=1e-30) * (gain * root + 0 * eps)


def _upwards(x: Tensor, both: Tensor, both_bias: Tensor, down: Tensor) -> Tensor:
    up, gate = F.linear(x, both, both_bias).chunk(2, -1)
    return F.linear(up * F.gelu(gate, approximate="tanh"), down)


def _backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), -1)


def _keys_first(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """[positions, heads, width], without a batch, hidden where the mask is True."""
    scores = torch.einsum("bkhd,bqhd->bhqk", key, query) / scale
    return torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(mask, -torch.inf).softmax(-1), value)


def _without_a_batch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    scores = (query @ key.mT * scale).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ value


HEADS: Example = {"query": (1, 5, 3, 4), "key": (1, 5, 3, 4), "value": (1, 5, 3, 6)}
FLAT: Example = {"query": (3, 5, 4), "key": (3, 5, 4), "value": (3, 5, 6), "scale": 0.3}
MASK = torch.eye(5) + torch.eye(5).roll(1, 0) > 0

CASES: list[tuple[str, Callable[..., Tensor], Example, str | None]] = [
    ("norm", _outside, {**WIDE, "eps": 1e-5}, None),
    ("norm", _inside, {**WIDE, "eps": 1e-5}, "ops.rms_norm(x, gain * x.shape[-1] ** -0.5, eps / x.shape[-1])"),
    (
        "feed_forward",
        _upwards,
        {"x": (1, 5, 8), "both": (12, 8), "both_bias": (12,), "down": (8, 6)},
        'ops.gated_feed_forward(x, *both.chunk(2)[::-1], down, *both_bias.chunk(2)[::-1], None, "gelu_tanh")',
    ),
    (
        "rotary",
        _backwards,
        {"x": (1, 3, 5, 8), "cos": (4,), "sin": (4,)},
        "ops.rotary(x, torch.cat((cos, cos), -1), -torch.cat((sin, sin), -1))",
    ),
    (
        "attention",
        _keys_first,
        {**HEADS, "mask": MASK, "scale": 0.3},
        "ops.attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), ~mask, 1 / scale, False)"
        ".transpose(1, 2)",
    ),
    ("attention", _without_a_batch, FLAT, "ops.attention(query[None], key[None], value[None], None, scale, True)[0]"),
    ("experts", _inside, {**WIDE, "eps": 1e-5}, None),
]


@pytest.mark.parametrize(("block", "matches", "example", "expected"), CASES, ids=[c[1].__name__ for c in CASES])
def test_proposal_of(block: str, matches: Callable[..., Tensor], example: Example, expected: str | None) -> None:
    assert proposal(Pattern("example", block, matches, matches, example)) == expected


def test_a_number_is_used_where_one_may_be() -> None:
    pattern = Pattern("example", "norm", _times_a_number, _times_a_number, {**WIDE, "eps": 1e-30, "root": 8**0.5})
    assert proposal(pattern) == "ops.rms_norm(x, gain * root * x.shape[-1] ** -0.5, eps)"


def test_a_table_of_the_model_is_not_used() -> None:
    def matches(x: Tensor, table: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-12) * table

    pattern = Pattern("example", "norm", matches, matches, {"x": (1, 5, 8), "table": (8,)})
    assert proposal(pattern) == "ops.rms_norm(x, table, 1e-12)"
    assert proposal(pattern, tables=["table"]) is None
