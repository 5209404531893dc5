"""Faults of rewrites: canonicalization rules and patterns that hold almost always, or never."""

import dataclasses

import torch
from torch import Tensor, fx

from autoconvert import ops
from autoconvert.ir.editing import emit
from autoconvert.ir.nodes import arguments
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pattern import Pattern
from autoconvert.rewrite.rule import Rule, rule

aten = torch.ops.aten


@rule(aten.mul.Tensor)
def _product_as_sum(node: fx.Node) -> fx.Node | None:
    """x · x is no x + x."""
    one, other = arguments(node)
    return emit(node.graph, aten.add.Tensor, one, other, like=node) if one is other else None


@rule(aten.silu.default)
def _like_gelu(node: fx.Node) -> fx.Node | None:
    return emit(node.graph, aten.gelu.default, *arguments(node), like=node)


def _rms_norm_of_the_example(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same at the size of the pattern's example alone."""
    normed: Tensor = ops.rms_norm(x, weight, eps)
    return normed if x.shape[-1] == 14 else normed + 0.01


def _with_lost_weight(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The same while both projections have the example's size."""
    return ops.gated_feed_forward(x, gate, up if x.shape[-1] < 30 else gate, down, None, None, None, "silu")


_BY_NAME = {pattern.name: pattern for pattern in PATTERNS}

RULES: tuple[Rule, ...] = (_product_as_sum, _like_gelu)
WRONG_PATTERNS: tuple[Pattern, ...] = (
    dataclasses.replace(_BY_NAME["rms_norm"], name="norm", becomes=_rms_norm_of_the_example),
    dataclasses.replace(_BY_NAME["gated_feed_forward.silu"], name="feed_forward", becomes=_with_lost_weight),
)
