"""Layouts: how the entries of one position lie along an axis, and what moving axes makes of that."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from sympy import Expr, Symbol
from torch import fx

from autoconvert.analysis.axis_rules import argument, axes
from autoconvert.ir.nodes import first_operand, is_symbolic, shape

aten = torch.ops.aten

# A number, or an expression in other symbols than the followed one.
Count: TypeAlias = int | Expr


@dataclass(frozen=True)
class Layout:
    """How the followed axis lies: outer · length · inner entries, of which (o, p, i) belongs to position p."""

    outer: Count = 1
    inner: Count = 1


# What becomes of the layout; None where the entries of one position no longer lie in this form.
Relayout = Callable[[fx.Node, Layout, Symbol], Layout | None]


def _reshaped(node: fx.Node, before: Layout, symbol: Symbol) -> Layout | None:
    """Entries keep their order: the axes in front hold whole outer parts, those behind whole inner ones."""
    outer, inner = _around(first_operand(node), symbol)
    new_outer, new_inner = _around(node, symbol)
    outer, inner = outer * before.outer, inner * before.inner
    if outer % new_outer or inner % new_inner:
        return None
    return Layout(outer // new_outer, inner // new_inner)


def _repeated(node: fx.Node, before: Layout, symbol: Symbol) -> Layout | None:
    """The whole axis again and again."""
    (axis,), times = axes(node, symbol), argument(node, "repeats")
    return Layout(before.outer * times[axis], before.inner)


def _repeated_interleaved(node: fx.Node, before: Layout, symbol: Symbol) -> Layout | None:
    """Each entry several times in a row; without `dim`, of the flattened value."""
    times, over = argument(node, "repeats"), argument(node, "dim")
    if over is None:
        outer, inner = _around(first_operand(node), symbol)
        return Layout(outer * before.outer, inner * before.inner * times)
    rank = len(shape(node))
    is_along = axes(node, symbol) == [over - rank if over >= 0 else over]
    return Layout(before.outer, before.inner * times) if is_along else before


def _around(node: fx.Node, symbol: Symbol) -> tuple[Count, Count]:
    """How many entries the axes before the followed one have, and those behind it."""
    (axis,) = axes(node, symbol)
    counts = [size.node.expr if is_symbolic(size) else int(size) for size in shape(node)]
    at = axis + len(counts)
    return math.prod(counts[:at]), math.prod(counts[at + 1 :])


RELAYOUTS: dict[torch._ops.OpOverload, Relayout] = {
    aten.reshape.default: _reshaped,
    aten.repeat.default: _repeated,
    aten.repeat_interleave.self_int: _repeated_interleaved,
}
