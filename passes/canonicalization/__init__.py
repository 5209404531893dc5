"""The canonicalization rules: a table of those that may apply to each operation, in their order.

A rule gives the canonical node for one that is not; it changes no values beyond the order of a rounding.
"""

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
from autoconvert.rewrite.rule import Rule, RuleTable

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

TABLE = RuleTable(RULES)
