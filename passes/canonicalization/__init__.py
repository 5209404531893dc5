"""The spellings of one computation: each rule gives the canonical node for one that is not, or None.

Rules are tried in order, before the node; they change no values beyond the order of a rounding.
"""

from collections.abc import Callable

from torch import fx

from autoconvert.passes.canonicalization import (
    arithmetic,
    composites,
    conditions,
    copies,
    parts,
    positions,
    products,
    shapes,
    softmax,
    writes,
)

Rule = Callable[[fx.Node], fx.Node | None]

RULES: tuple[Rule, ...] = (
    *copies.RULES,
    *shapes.RULES,
    *parts.RULES,
    *writes.RULES,
    *positions.RULES,
    *arithmetic.RULES,
    *products.RULES,
    *conditions.RULES,
    *softmax.RULES,
    # What another rule knows a better form for is no composite any more.
    *composites.RULES,
)
