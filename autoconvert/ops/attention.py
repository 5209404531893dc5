"""Attention, over the sequence at hand and over a cache."""

from collections.abc import Callable

import torch
from torch import Tensor

# What the runtime writes into a mask to hide a position: finite, so that a fully hidden row gives no NaN.
CLOSED = -0.7 * torch.finfo(torch.float32).max
# What a bias holds where it hides: finite still where the runtime's mask hides as well.
CLOSED_BIAS = -0.2 * torch.finfo(torch.float32).max
# Beside a score of ordinary size, exp of anything below is 0 in float32: the position is hidden.
HIDES = -1e4


def attention_scores(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float) -> Tensor:
    """What attention takes the softmax of: query · keyᵀ · scale, capped, + mask.

    `query` [..., queries, width], `key` [..., keys, width] and `mask`, which is added, broadcast to
    [..., queries, keys]. With `softcap` c > 0 a score s becomes c · tanh(s / c) (Gemma 2: Gemma Team, 2024).
    """
    scores = _capped(query @ key.transpose(-2, -1) * scale, softcap)
    return scores if mask is None else scores + mask


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool,
    window: int = 0,
    chunk_size: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., 2017) with grouped heads (Ainslie et al., 2023).

    `query` [batch, heads, sequence, width], `key` [batch, groups, sequence, width], `value`
    [batch, groups, sequence, value width]; `mask` broadcasts to [batch, heads, sequence, sequence], either bool
    (True attends) or added to the scores; `causal` hides later positions, with `window` > 0 also those more
    than `window` − 1 before, with `chunk_size` > 0 those of earlier chunks of so many positions (Llama 4). Heads
    share keys in order: head h reads group h // (heads / groups). `softcap` as in attention_scores. `sinks` [heads]
    are scores that join each softmax and have no value (gpt-oss: OpenAI, 2025). `bias` broadcasts to
    [batch, heads, sequence, context] and is added; its column j belongs to the key at position j, columns past
    the sequence are not read. Gives [batch, heads, sequence, value width].
    """
    repeats, (queries, keys) = query.shape[1] // key.shape[1], (query.shape[2], key.shape[2])
    if causal:
        rows = torch.arange(queries, device=query.device)[:, None]
        mask = (_columns(rows, keys) <= rows) & near(rows, keys, window, chunk_size)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -torch.inf)
    if bias is not None:
        mask = bias[..., :keys] if mask is None else bias[..., :keys] + mask
    scores = attention_scores(query, key.repeat_interleave(repeats, dim=1), mask, scale, softcap)
    if sinks is not None:
        sinks = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, queries, 1)
    return _softmax(scores, sinks) @ value.repeat_interleave(repeats, dim=1)


def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    mask: Tensor,
    key_axis: int,
    value_axis: int,
    scale: float,
    window: int,
    chunk_size: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of a chunk over everything written so far, and the caches with the chunk written in.

    `query` [1, heads, chunk, width], `key` [1, groups, chunk, width], `value` [1, groups, chunk, value width];
    caches have the context as their axis `key_axis` and `value_axis`, 2 or 3, and the width as the other:
    [1, groups, context, width] or [1, groups, width, context]. `input_pos` int32 [chunk], of which the first says where
    the chunk goes: it is written as one slice. `mask`
    [1, 1, chunk, context] is added to the scores. `window`, `chunk_size`, `softcap`, `sinks` [heads] and `bias`
    [1, heads or 1, chunk or 1, context] as in attention. Gives [1, heads, chunk, value width] and both caches.
    """
    slots = input_pos[0] + torch.arange(query.shape[2], device=query.device)
    keys = key_cache.index_copy(key_axis, slots, laid_out(key, key_axis))
    values = value_cache.index_copy(value_axis, slots, laid_out(value, value_axis))
    layout = (key_axis, value_axis)
    attended = attend(query, keys, values, input_pos, mask, *layout, scale, window, chunk_size, softcap, sinks, bias)
    return attended, keys, values


def laid_out(chunk: Tensor, axis: int) -> Tensor:
    """[1, groups, chunk, width] in the layout of a cache that has the context as `axis`."""
    return chunk if axis == 2 else chunk.transpose(-2, -1)


def _times(a: Tensor, b: Tensor, is_transposed: bool) -> Tensor:
    return a @ (b.transpose(-2, -1) if is_transposed else b)


def _slots(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[-1], dtype=torch.int32, device=mask.device).reshape(1, 1, 1, -1)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    input_pos: Tensor,
    mask: Tensor,
    key_axis: int,
    value_axis: int,
    scale: float,
    window: int,
    chunk_size: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    times: Callable[[Tensor, Tensor, bool], Tensor] = _times,
    numbered: Callable[[Tensor], Tensor] = _slots,
) -> Tensor:
    """Attention of `query` [1, heads, chunk, width] over caches in a target's layouts; see cached_attention.

    `times` is a product with a cache, or with its transpose, which a device may have an operation for. `numbered` gives
    the numbers of the slots [1, 1, 1, context] that a mask is for.
    """
    groups, context = keys.shape[1], keys.shape[key_axis]
    _, heads, chunk, width = query.shape
    repeats = heads // groups
    if window or chunk_size:
        mask = torch.where(_near(input_pos.reshape(1, 1, -1, 1), numbered(mask), window, chunk_size), mask, CLOSED)
    added = mask if bias is None else bias[..., :context] + mask
    # Heads of one group are rows of one matrix product; what is added repeats per head instead of the cache.
    if added.shape[1] > 1:
        added = added.reshape(1, groups, repeats * chunk, context)
    elif chunk > 1:
        added = torch.cat([added] * repeats, dim=2)
    rows = (query * scale).reshape(1, groups, repeats * chunk, width)
    # The mask comes last: whatever lies in a slot that nobody has written, is hidden.
    products = times(rows, keys, key_axis == 2)
    scores = _capped(products, softcap) + added
    if sinks is not None:
        # As many zeros as rows, counted when run: how many there are may be open.
        sinks = sinks.reshape(groups, repeats, 1) + (input_pos - input_pos).to(sinks.dtype)
        sinks = sinks.reshape(1, groups, repeats * chunk, 1)
    strengths = _softmax(scores, sinks)
    attended = times(strengths, values, value_axis == 3)
    return attended.reshape(1, heads, chunk, -1)


def _capped(scores: Tensor, softcap: float) -> Tensor:
    return torch.tanh(scores * (1.0 / softcap)) * softcap if softcap else scores


def near(rows: Tensor, keys: int, window: int, chunk_size: int) -> Tensor:
    """Which of the first `keys` positions a window and a chunk leave to those in `rows` [n, 1]: bool [n, keys].

    Later positions are for the causal mask to hide.
    """
    return _near(rows, _columns(rows, keys), window, chunk_size)


def _near(rows: Tensor, columns: Tensor, window: int, chunk_size: int) -> Tensor:
    # The chunk begins at the same position for a whole row, so that nothing is divided for each key.
    first = rows - rows % chunk_size if chunk_size else torch.zeros_like(rows)
    if window:
        first = torch.maximum(first, rows - (window - 1))
    return columns >= first


def _columns(rows: Tensor, keys: int) -> Tensor:
    return torch.arange(keys, dtype=rows.dtype, device=rows.device)[None]


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last axis of [..., queries, keys], each row joined by its score in `sinks` [..., queries, 1]."""
    return scores.softmax(-1) if sinks is None else torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
