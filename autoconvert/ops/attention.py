"""Attention, over the sequence at hand and over a cache."""

from collections.abc import Callable

import torch
from torch import Tensor

# What the runtime writes into a mask to hide a position: finite, so that a fully hidden row gives no NaN.
CLOSED = -0.7 * torch.finfo(torch.float32).max


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool,
    window: int = 0,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., 2017) with grouped heads (Ainslie et al., 2023).

    `query` [batch, heads, sequence, width], `key` [batch, groups, sequence, width], `value`
    [batch, groups, sequence, value width]; `mask` broadcasts to [batch, heads, sequence, sequence], either bool
    (True attends) or added to the scores; `causal` hides later positions, and with `window` > 0 also those more
    than `window` − 1 before. Heads share keys in order:
    head h reads group h // (heads / groups). Gives [batch, heads, sequence, value width].
    """
    repeats = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeats, dim=1).transpose(-2, -1) * scale
    if causal:
        length = query.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        mask = mask.triu(1 - window) if window else mask
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value.repeat_interleave(repeats, dim=1)


def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    mask: Tensor,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of a chunk over everything written so far, and the caches with the chunk written in.

    `query` [1, heads, chunk, width], `key` [1, groups, chunk, width], `value` [1, groups, chunk, value width];
    `key_cache` [1, groups, context, width], `value_cache` [1, groups, value width, context]; `input_pos` int32
    [chunk], of which the first says where the chunk goes: it is written as one slice. `mask`
    [1, 1, chunk, context] is added to the scores. With `window` > 0 a position sees itself and the
    `window` − 1 before it. Gives [1, heads, chunk, value width] and both caches.
    """
    slots = input_pos[0] + torch.arange(query.shape[2], device=query.device)
    new_keys = key_cache.index_copy(2, slots, key)
    new_values = value_cache.index_copy(3, slots, value.transpose(-2, -1))
    return attend(query, new_keys, new_values, input_pos, mask, scale, window), new_keys, new_values


def _times_transposed(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.transpose(-2, -1)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    input_pos: Tensor,
    mask: Tensor,
    scale: float,
    window: int,
    times_transposed: Callable[[Tensor, Tensor], Tensor] = _times_transposed,
) -> Tensor:
    """Attention of `query` [1, heads, chunk, width] over caches in the runtime's layouts; see cached_attention.

    Both products are with the transpose of a cache, which a device may have an operation for.
    """
    groups, context = keys.shape[1], keys.shape[2]
    _, heads, chunk, width = query.shape
    repeats = heads // groups
    if window:
        distance = input_pos[:, None] - torch.arange(context, dtype=input_pos.dtype, device=query.device)[None]
        mask = torch.where(distance < window, mask, CLOSED)
    # Heads of one group are rows of one matrix product; the mask repeats per head instead of the cache.
    rows = (query * scale).reshape(1, groups, repeats * chunk, width)
    scores = times_transposed(rows, keys) + (mask if chunk == 1 else torch.cat([mask] * repeats, dim=2))
    return times_transposed(scores.softmax(-1), values).reshape(1, heads, chunk, -1)
