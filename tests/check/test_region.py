"""A rewrite is checked where it happens: right ones pass, once per structure, wrong ones do not."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.check.region import RegionCheck
from autoconvert.errors import CheckFailed
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.fuse import fuse
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pattern import Pattern
from tests import models
from tests.models import WIDTH, Decoder, tiny_llama

BY_NAME = {pattern.name: pattern for pattern in PATTERNS}


def checked(module: torch.nn.Module, *patterns: Pattern) -> RegionCheck:
    program = models.traced(module)
    check = RegionCheck()
    fuse(program.with_graph(canonicalize(program.graph, program.weights)), patterns or PATTERNS, check)
    return check


ATTENTION, GATED = "attention.native", "gated_feed_forward.silu"


def attention(change: Callable[..., tuple[Any, ...]]) -> Callable[..., Tensor]:
    return lambda query, key, value, mask, scale: ops.attention(*change(query, key, value, mask, scale), False)


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: str = "silu") -> Any:
    return ops.gated_feed_forward(x, gate, up, down, None, None, None, activation)


WRONG: dict[str, tuple[str, Callable[..., Any]]] = {
    "epsilon": ("rms_norm", lambda x, weight, eps: ops.rms_norm(x, weight, eps + 0.01)),
    "weight": ("rms_norm", lambda x, weight, eps: ops.rms_norm(x, weight + 1, eps)),
    "shape": ("rms_norm", lambda x, weight, eps: ops.rms_norm(x, weight, eps)[:, :1]),
    "sign": ("rotary.half", lambda x, cos, sin: ops.rotary(x, cos, -sin)),
    "exchanged": ("rotary.half", lambda x, cos, sin: ops.rotary(x, sin, cos)),
    "scale": (ATTENTION, attention(lambda q, k, v, mask, scale: (q, k, v, mask, scale * 1.01))),
    "no mask": (ATTENTION, attention(lambda q, k, v, mask, scale: (q, k, v, None, scale))),
    "value for key": (ATTENTION, attention(lambda q, k, v, mask, scale: (q, v, k, mask, scale))),
    "activation": (GATED, lambda x, gate, up, down: gated(x, gate, up, down, "gelu")),
    "gate and up": (GATED, lambda x, gate, up, down: gated(x, up, gate, down)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_replacement_is_caught_where_it_is(name: str) -> None:
    of, becomes = WRONG[name]
    wrong = replace(BY_NAME[of], becomes=becomes)
    with pytest.raises(CheckFailed, match=rf"Pattern {re.escape(of)} .*patterns.*\.py:\d+.* gives other numbers"):
        checked(tiny_llama(), wrong)


def test_layers_of_one_structure_are_executed_once() -> None:
    assert checked(tiny_llama(num_hidden_layers=2)).executed == checked(tiny_llama(num_hidden_layers=5)).executed == 6


def test_another_number_is_another_structure() -> None:
    module = Decoder(lambda d, x: F.rms_norm(F.rms_norm(x, (8,), d.gain, 1e-6), (8,), d.gain, 1e-2))
    assert checked(module, BY_NAME["rms_norm.native"]).executed == 2


def test_one_value_bound_twice_is_one_value() -> None:
    module = Decoder(lambda d, x: F.linear(F.silu(F.linear(x, d.square)) * F.linear(x, d.square), d.square))
    assert checked(module, BY_NAME["gated_feed_forward.silu"]).executed == 1


@pytest.mark.parametrize("opened", [True, False])
def test_a_bool_mask_is_never_closed_in_a_whole_row(opened: bool) -> None:
    def hidden(x: Tensor, mask: Tensor, number: float) -> Tensor:
        return torch.where(mask if opened else torch.logical_not(mask), x, number).softmax(-1)

    # The same but for a row without any open position: that is NaN on one side only.
    pattern = Pattern(
        "soft",
        "block",
        lambda x, mask: hidden(x, mask, -torch.inf),
        lambda x, mask: hidden(x, mask, -1e30),
        {"x": (1, 5, 5), "mask": torch.ones(5, 5) > 0},
    )

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        return hidden(x @ x.mT, torch.ones(x.shape[1], x.shape[1]).tril() > 0, -torch.inf) @ x

    assert checked(Decoder(attend=attend), pattern).executed == 1


def test_constants_are_as_the_model_has_them_and_each_is_executed() -> None:
    """Of equal structure, but with another table: the second is not the first."""

    def scaled(x: Tensor, table: Tensor) -> Tensor:
        return torch.tanh(x * table)

    pattern = Pattern("by_table", "block", scaled, lambda x, table: torch.tanh(x * 2), {"x": (1, 5, 8), "table": (8,)})
    twice, other = torch.full((WIDTH,), 2.0), torch.full((WIDTH,), 3.0)
    assert checked(Decoder(lambda _, x: scaled(x, twice)), pattern).executed == 1
    with pytest.raises(CheckFailed):
        checked(Decoder(lambda _, x: scaled(scaled(x, twice), other)), pattern)
