"""The scores of decomposed attention: they grow operation by operation from the product of queries and keys.

Each pattern takes in the next operation, so that a few of them cover the orders in which people scale, cap and mask.
"""

from typing import Any

import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.ops.attention import HIDES
from autoconvert.rewrite.pattern import Example, Pattern

# Queries and keys have lengths of their own: a single step looks back on many.
_BATCH, _HEADS, _LENGTH, _SLOTS, _WIDTH = 4, 6, 5, 9, 14


def _product(query: Tensor, key: Tensor) -> Tensor:
    return torch.matmul(query, key.transpose(-2, -1))


def _scaled(query: Tensor, key: Tensor, scale: float, factor: float) -> Tensor:
    return ops.attention_scores(query, key, None, scale, 0.0) * factor


def _capped(query: Tensor, key: Tensor, scale: float, softcap: float) -> Tensor:
    return torch.tanh(ops.attention_scores(query, key, None, scale, 0.0)) * softcap


def _masked(query: Tensor, key: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    return ops.attention_scores(query, key, None, scale, softcap) + mask


def _masked_again(query: Tensor, key: Tensor, mask: Tensor, more: Tensor, scale: float, softcap: float) -> Tensor:
    return ops.attention_scores(query, key, mask, scale, softcap) + more


def _filled(query: Tensor, key: Tensor, hidden: Tensor, scale: float, softcap: float, fill: float) -> Tensor:
    return torch.where(hidden, fill, ops.attention_scores(query, key, None, scale, softcap))


def _masked_and_filled(
    query: Tensor, key: Tensor, mask: Tensor, hidden: Tensor, scale: float, softcap: float, fill: float
) -> Tensor:
    return torch.where(hidden, fill, ops.attention_scores(query, key, mask, scale, softcap))


def _scaled_with_mask(query: Tensor, key: Tensor, mask: Tensor, scale: float, factor: float) -> Tensor:
    return ops.attention_scores(query, key, mask, scale, 0.0) * factor


def _floored(query: Tensor, key: Tensor, mask: Tensor, scale: float, softcap: float, floor: float) -> Tensor:
    return torch.maximum(ops.attention_scores(query, key, mask, scale, softcap), torch.full((), floor))


def _with_heads_apart(query: Tensor, key: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    """Heads were one axis with the batch, which is 1."""
    return ops.attention_scores(query, key, mask, scale, softcap).reshape(1, *query.shape[:2], -1)


def _with_heads_apart_before_the_mask(query: Tensor, key: Tensor, scale: float, softcap: float) -> Tensor:
    return ops.attention_scores(query, key, None, scale, softcap).reshape(1, *query.shape[:2], -1)


def _hiding(hidden: Tensor) -> Tensor:
    return torch.where(hidden, -torch.inf, 0.0)


def _over_one_sequence(query: Tensor, key: Tensor) -> str | None:
    """Queries and keys of one sequence, or one query that looks back; any other product is no attention."""
    if query.ndim != key.ndim or query.ndim < 3:
        return f"query has {query.ndim} axes and key {key.ndim}"
    rows, columns = str(query.shape[-2]), str(key.shape[-2])
    return f"{rows} queries meet {columns} keys" if rows not in ("1", columns) else None


def _added(query: Tensor, key: Tensor, mask: Tensor, more: Tensor | None = None, **_: float) -> str | None:
    masks = [mask] if more is None else [mask, more]
    if any(not each.is_floating_point() for each in masks):
        return "what is added is no number"
    return _fits(query, key, *masks)


def _hides(query: Tensor, key: Tensor, hidden: Tensor, fill: float, **_: Any) -> str | None:
    return f"masked scores become {fill}, which hides nothing" if fill > HIDES else _fits(query, key, hidden)


def _below_all(floor: float, **_: Any) -> str | None:
    """A floor under what is hidden anyway lifts no other score."""
    return f"scores are at least {floor}, which lifts some" if floor > HIDES else None


def _fits(query: Tensor, key: Tensor, *masks: Tensor) -> str | None:
    """A mask has no more axes than the scores, and none that is larger; lengths of the sequence are the same."""
    sizes = [*query.shape[:-1], key.shape[-2]]
    for mask in masks:
        pairs = zip(reversed(mask.shape), reversed(sizes), strict=False)
        if mask.ndim > len(sizes) or any(isinstance(b, int) and a not in (1, b) for a, b in pairs):
            return f"a mask {list(mask.shape)} is larger than the scores {sizes}"
    return None


# Axes of size 1 match any size: the keys may be those of one head, and a mask that of all.
_VALUES: Example = {
    "query": (_BATCH, _HEADS, _LENGTH, _WIDTH),
    "key": (_BATCH, 1, _SLOTS, _WIDTH),
    "mask": (1, 1, 1, 1),
    "more": (1, 1, 1, 1),
    "hidden": torch.zeros(1, 1, 1, 1) > 0,
    "scale": 0.3,
    "softcap": 3.0,
    "factor": 0.7,
    "fill": -1e9,
    "floor": -1e9,
}


def _example(*names: str) -> Example:
    return {name: _VALUES[name] for name in ("query", "key", *names)}


def _merged(*names: str) -> Example:
    return {**_example(*names), "query": (_HEADS, _LENGTH, _WIDTH), "key": (1, _SLOTS, _WIDTH)}


PATTERNS = (
    Pattern(
        name="attention_scores.product",
        block="attention_scores",
        matches=_product,
        becomes=lambda query, key: ops.attention_scores(query, key, None, 1.0, 0.0),
        example={**_example(), "query": (_BATCH, _HEADS, 1, _WIDTH)},
        guard=_over_one_sequence,
    ),
    Pattern(
        name="attention_scores.scaled",
        block="attention_scores",
        matches=_scaled,
        becomes=lambda query, key, scale, factor: ops.attention_scores(query, key, None, scale * factor, 0.0),
        example=_example("scale", "factor"),
    ),
    Pattern(
        name="attention_scores.capped",
        block="attention_scores",
        matches=_capped,
        # The division by the cap is in the scale already.
        becomes=lambda query, key, scale, softcap: ops.attention_scores(query, key, None, scale * softcap, softcap),
        example=_example("scale", "softcap"),
    ),
    Pattern(
        name="attention_scores.masked",
        block="attention_scores",
        matches=_masked,
        becomes=lambda query, key, mask, scale, softcap: ops.attention_scores(query, key, mask, scale, softcap),
        example=_example("mask", "scale", "softcap"),
        guard=_added,
    ),
    Pattern(
        name="attention_scores.masked_again",
        block="attention_scores",
        matches=_masked_again,
        becomes=lambda query, key, mask, more, scale, softcap: ops.attention_scores(
            query, key, mask + more, scale, softcap
        ),
        example=_example("mask", "more", "scale", "softcap"),
        guard=_added,
    ),
    Pattern(
        name="attention_scores.filled",
        block="attention_scores",
        matches=_filled,
        becomes=lambda query, key, hidden, scale, softcap, fill: ops.attention_scores(
            query, key, _hiding(hidden), scale, softcap
        ),
        example=_example("hidden", "scale", "softcap", "fill"),
        guard=_hides,
    ),
    Pattern(
        name="attention_scores.masked_and_filled",
        block="attention_scores",
        matches=_masked_and_filled,
        becomes=lambda query, key, mask, hidden, scale, softcap, fill: ops.attention_scores(
            query, key, mask + _hiding(hidden), scale, softcap
        ),
        example=_example("mask", "hidden", "scale", "softcap", "fill"),
        guard=_hides,
    ),
    Pattern(
        name="attention_scores.floored",
        block="attention_scores",
        matches=_floored,
        becomes=lambda query, key, mask, scale, softcap, floor: ops.attention_scores(query, key, mask, scale, softcap),
        example=_example("mask", "scale", "softcap", "floor"),
        guard=_below_all,
    ),
    Pattern(
        name="attention_scores.scaled_with_mask",
        block="attention_scores",
        matches=_scaled_with_mask,
        becomes=lambda query, key, mask, scale, factor: ops.attention_scores(
            query, key, mask * factor, scale * factor, 0.0
        ),
        example=_example("mask", "scale", "factor"),
    ),
    Pattern(
        name="attention_scores.with_heads_apart",
        block="attention_scores",
        matches=_with_heads_apart,
        becomes=lambda query, key, mask, scale, softcap: ops.attention_scores(
            query[None], key[None], mask[None], scale, softcap
        ),
        example={**_merged("scale", "softcap"), "mask": (1, 1, 1)},
    ),
    Pattern(
        name="attention_scores.with_heads_apart.before_the_mask",
        block="attention_scores",
        matches=_with_heads_apart_before_the_mask,
        becomes=lambda query, key, scale, softcap: ops.attention_scores(query[None], key[None], None, scale, softcap),
        example=_merged("scale", "softcap"),
    ),
)
