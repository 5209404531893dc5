"""Scaled dot-product attention: torch's own, or scores, softmax and a product; heads that share keys."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.ops.attention import HIDES
from autoconvert.rewrite.pattern import Example, Pattern

# Queries and keys have lengths of their own: a single step looks back on many.
_BATCH, _GROUPS, _REPEATS, _LENGTH, _SLOTS, _WIDTH, _VALUE_WIDTH = 4, 2, 3, 5, 9, 14, 22


def _native(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)


def _native_causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)


def _native_grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=True)


def _native_grouped_causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    weights = torch.softmax(ops.attention_scores(query, key, mask, scale, softcap), dim=-1)
    return torch.matmul(weights, value)


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor, scale: float, softcap: float
) -> Tensor:
    """Each row is joined by a score of its head, which is dropped after the softmax."""
    scores = ops.attention_scores(query, key, mask, scale, softcap)
    column = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[2], -1)
    return torch.matmul(torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1], value)


def _with_sinks_as_gate(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor, scale: float, softcap: float
) -> Tensor:
    """The share of the softmax that the sink leaves is sigmoid(log Σ exp(scores) − sink)."""
    scores = ops.attention_scores(query, key, mask, scale, softcap)
    share = torch.sigmoid(torch.logsumexp(scores, dim=-1) - sinks.reshape(1, -1, 1))
    return torch.matmul(torch.softmax(scores, dim=-1), value) * share[..., None]


def _over_merged_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    """Values have heads as one axis with the batch, which is 1."""
    weights = torch.softmax(ops.attention_scores(query, key, mask, scale, softcap), dim=-1)
    return torch.matmul(weights.reshape(-1, *weights.shape[2:]), value)


def _repeated(x: Tensor) -> Tensor:
    """Each head `_REPEATS` times in a row."""
    batch, groups, length, width = x.shape
    return x[:, :, None].expand(batch, groups, _REPEATS, length, width).reshape(batch, -1, length, width)


def _shared(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float) -> Tensor:
    return ops.attention(query, _repeated(key), _repeated(value), mask, scale, False, softcap=softcap)


def _shared_with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor, scale: float, softcap: float
) -> Tensor:
    return ops.attention(query, _repeated(key), _repeated(value), mask, scale, False, softcap=softcap, sinks=sinks)


def _shared_causal(query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float) -> Tensor:
    return ops.attention(query, _repeated(key), _repeated(value), None, scale, True, softcap=softcap)


def _biased_by_key(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, bias: Tensor, scale: float, fill: float
) -> Tensor:
    """Each key brings a number with it that is added to all its scores (dynamic mask attention: Shi et al., 2025)."""
    mask = torch.where(hidden, fill, bias[:, :, None].expand(-1, -1, query.shape[2], -1))
    return ops.attention(query, key, value, _repeated(mask), scale, False)


def _with_bias_in_key(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, bias: Tensor, scale: float, fill: float
) -> Tensor:
    """The number is one more entry of its key, where every query has 1 / scale."""
    query = torch.cat([query, torch.full_like(query[..., :1], 1 / scale)], dim=-1)
    key = torch.cat([key, bias[..., None]], dim=-1)
    return ops.attention(query, key, value, torch.where(hidden, -torch.inf, 0.0), scale, False)


def _bias_of_each_key(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, bias: Tensor, scale: float, fill: float
) -> str | None:
    if scale == 0 or fill > HIDES:
        return f"scores times {scale}, where {fill} is to hide"
    return _whole_groups(query, key, value)


def _whole_groups(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> str | None:
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4:
        return "query, key and value are not [batch, heads, sequence, width]"
    heads, groups = query.shape[1], key.shape[1]
    if groups != value.shape[1] or heads % groups:
        return f"{heads} query heads do not share {groups} keys and {value.shape[1]} values evenly"
    return None


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float = 0.0) -> Tensor:
    return ops.attention(query, key, value, mask, scale, False, softcap=softcap)


def _masked_with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor, scale: float, softcap: float
) -> Tensor:
    return ops.attention(query, key, value, mask, scale, False, softcap=softcap, sinks=sinks)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float = 0.0) -> Tensor:
    return ops.attention(query, key, value, None, scale, True, softcap=softcap)


_VALUES: Example = {
    "mask": (1, 1, 1, 1),
    "sinks": (_GROUPS * _REPEATS,),
    "scale": 0.3,
    "hidden": torch.zeros(1, 1, 1, 1) > 0,
    "fill": -1e9,
    "softcap": 3.0,
}


def _example(groups: int, *names: str, slots: int = _SLOTS) -> Example:
    """With `groups` 1 the keys match any number of heads."""
    return {
        "query": (_BATCH, _GROUPS * _REPEATS, _LENGTH, _WIDTH),
        "key": (_BATCH, groups, slots, _WIDTH),
        "value": (_BATCH, groups, slots, _VALUE_WIDTH),
        **{name: _VALUES[name] for name in names},
    }


def _merged(*names: str) -> Example:
    return {
        "query": (1, _GROUPS * _REPEATS, _LENGTH, _WIDTH),
        "key": (1, 1, _SLOTS, _WIDTH),
        "value": (1, _SLOTS, _VALUE_WIDTH),
        **{name: _VALUES[name] for name in names},
    }


def _pattern(name: str, matches: Callable[..., Tensor], becomes: Callable[..., Tensor], example: Example) -> Pattern:
    return Pattern(f"attention.{name}", "attention", matches, becomes, example, _whole_groups)


_CAPPED = ("mask", "scale", "softcap")
_SUNK = ("mask", "sinks", "scale", "softcap")

PATTERNS = (
    _pattern("native", _native, _masked, _example(1, "mask", "scale")),
    _pattern("native.causal", _native_causal, _causal, _example(1, "scale", slots=_LENGTH)),
    _pattern("native.grouped", _native_grouped, _masked, _example(_GROUPS, "mask", "scale")),
    _pattern("native.grouped.causal", _native_grouped_causal, _causal, _example(_GROUPS, "scale", slots=_LENGTH)),
    _pattern("with_sinks", _with_sinks, _masked_with_sinks, _example(1, *_SUNK)),
    _pattern("with_sinks_as_gate", _with_sinks_as_gate, _masked_with_sinks, _example(1, *_SUNK)),
    _pattern("written_out", _written_out, _masked, _example(1, *_CAPPED)),
    Pattern(
        name="attention.over_merged_heads",
        block="attention",
        matches=_over_merged_heads,
        becomes=lambda query, key, value, mask, scale, softcap: _masked(
            query, key, value[None], mask, scale, softcap
        ).squeeze(0),
        example=_merged(*_CAPPED),
        guard=lambda value, **others: _whole_groups(value=value[None], **others),
    ),
    # Once found, the heads that share keys are looked for.
    _pattern("shared", _shared, _masked, _example(_GROUPS, *_CAPPED)),
    _pattern("shared.with_sinks", _shared_with_sinks, _masked_with_sinks, _example(_GROUPS, *_SUNK)),
    Pattern(
        name="attention.biased_by_key",
        block="attention",
        matches=_biased_by_key,
        becomes=_with_bias_in_key,
        example={**_example(_GROUPS, "hidden", "scale", "fill"), "bias": (_BATCH, _GROUPS, _SLOTS)},
        guard=_bias_of_each_key,
    ),
    _pattern("shared.causal", _shared_causal, _causal, _example(_GROUPS, "scale", "softcap", slots=_LENGTH)),
)
