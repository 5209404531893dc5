"""The building blocks that are known: one file each, in the order in which they are looked for."""

from autoconvert.patterns import activations, attention, attention_scores, experts, feed_forward, norms, rotary
from autoconvert.rewrite.pattern import Pattern

PATTERNS: tuple[Pattern, ...] = (
    *activations.PATTERNS,
    *norms.PATTERNS,
    *rotary.PATTERNS,
    # A product with a picked matrix before any product of two activations, which are scores.
    *experts.PATTERNS,
    *attention_scores.PATTERNS,
    *attention.PATTERNS,
    *feed_forward.PATTERNS,
)
