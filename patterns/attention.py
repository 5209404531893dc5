"""Scaled dot-product attention, with one key head for several query heads or one each."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert import ops
from autoconvert.pattern import Guard, Pattern, tensor

Repeat = Callable[[Tensor], Tensor]

# Queries and keys have lengths of their own: a single step looks back on many.
_BATCH, _GROUPS, _REPEATS, _LENGTH, _SLOTS, _WIDTH, _VALUE_WIDTH = 4, 2, 3, 5, 9, 14, 22


def _expanded(x: Tensor) -> Tensor:
    """Each head `_REPEATS` times in a row, as a broadcast and a reshape."""
    batch, groups, length, width = x.shape
    return x[:, :, None].expand(batch, groups, _REPEATS, length, width).reshape(batch, -1, length, width)


def _as_it_is(x: Tensor) -> Tensor:
    return x


_REPETITIONS: dict[str, Repeat] = {"expanded": _expanded, "one_each": _as_it_is}


def _native(repeat: Repeat) -> Pattern:
    def matches(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(query, repeat(key), repeat(value), mask, scale=scale)

    return _masked("native", repeat, matches)


def _native_causal(repeat: Repeat) -> Pattern:
    def matches(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(query, repeat(key), repeat(value), is_causal=True, scale=scale)

    return Pattern(
        name=f"attention.native.causal.{repeat.__name__.strip('_')}",
        block="attention",
        matches=matches,
        becomes=lambda query, key, value, scale: ops.attention(query, key, value, None, scale, True),
        example=lambda: _inputs(repeat, _LENGTH),
        guard=_whole_groups,
    )


def _native_grouped() -> Pattern:
    def matches(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=True)

    return Pattern(
        name="attention.native.grouped",
        block="attention",
        matches=matches,
        becomes=lambda query, key, value, mask, scale: ops.attention(query, key, value, mask, scale, False),
        example=lambda: {**_inputs(_expanded), "mask": _mask()},
        guard=_whole_groups,
    )


def _native_grouped_causal() -> Pattern:
    def matches(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)

    return Pattern(
        name="attention.native.grouped.causal",
        block="attention",
        matches=matches,
        becomes=lambda query, key, value, scale: ops.attention(query, key, value, None, scale, True),
        example=lambda: _inputs(_expanded, _LENGTH),
        guard=_whole_groups,
    )


def _written_out(repeat: Repeat) -> Pattern:
    def matches(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        scores = torch.matmul(query, repeat(key).transpose(2, 3)) * scale + mask
        return torch.matmul(torch.softmax(scores, dim=-1), repeat(value))

    return _masked("written_out", repeat, matches, _added)


def _written_out_filled(repeat: Repeat) -> Pattern:
    def matches(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, fill: float, scale: float) -> Tensor:
        scores = torch.matmul(query, repeat(key).transpose(2, 3)) * scale
        return torch.matmul(torch.softmax(scores.masked_fill(mask, fill), dim=-1), repeat(value))

    return Pattern(
        name=f"attention.written_out.filled.{repeat.__name__.strip('_')}",
        block="attention",
        matches=matches,
        becomes=lambda query, key, value, mask, fill, scale: ops.attention(
            query, key, value, torch.logical_not(mask), scale, False
        ),
        example=lambda: {
            **_inputs(repeat),
            "mask": torch.ones(1, 1, _LENGTH, _SLOTS).triu(1) > 0,
            "fill": -1e9,
        },
        guard=_filled,
    )


def _masked(kind: str, repeat: Repeat, matches: Callable[..., Tensor], guard: Guard | None = None) -> Pattern:
    return Pattern(
        name=f"attention.{kind}.{repeat.__name__.strip('_')}",
        block="attention",
        matches=matches,
        becomes=lambda query, key, value, mask, scale: ops.attention(query, key, value, mask, scale, False),
        example=lambda: {**_inputs(repeat), "mask": _mask()},
        guard=guard or _whole_groups,
    )


def _added(mask: Tensor, **others: Any) -> str | None:
    return "its mask is bool, and added" if mask.dtype == torch.bool else _whole_groups(**others)


def _filled(fill: float, **others: Any) -> str | None:
    """Beside a score of ordinary size, exp of less than -1e4 is 0 in float32."""
    return f"masked scores become {fill}, which hides nothing" if fill > -1e4 else _whole_groups(**others)


def _whole_groups(query: Tensor, key: Tensor, value: Tensor, **_: object) -> str | None:
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4:
        return "query, key and value are not [batch, heads, sequence, width]"
    if key.shape[1] != value.shape[1] or query.shape[1] % key.shape[1]:
        heads = f"{key.shape[1]} keys and {value.shape[1]} values"
        return f"{query.shape[1]} query heads do not share {heads} evenly"
    return None


def _inputs(repeat: Repeat, slots: int = _SLOTS) -> dict[str, Tensor | float]:
    heads = _GROUPS * _REPEATS
    groups = heads if repeat is _as_it_is else _GROUPS
    return {
        "query": tensor(_BATCH, heads, _LENGTH, _WIDTH),
        "key": tensor(_BATCH, groups, slots, _WIDTH),
        "value": tensor(_BATCH, groups, slots, _VALUE_WIDTH),
        "scale": 0.3,
    }


def _mask() -> Tensor:
    return tensor(1, 1, _LENGTH, _SLOTS)


PATTERNS = (
    *(_native(repeat) for repeat in _REPETITIONS.values()),
    *(_native_causal(repeat) for repeat in _REPETITIONS.values()),
    _native_grouped(),
    _native_grouped_causal(),
    *(_written_out(repeat) for repeat in _REPETITIONS.values()),
    *(_written_out_filled(repeat) for repeat in _REPETITIONS.values()),
)
