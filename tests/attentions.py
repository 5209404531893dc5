"""Attention as people write it: for `Decoder` of tests.models, which has two heads of width 4."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models import CONTEXT, HEADS, WIDTH, Change, Decoder, merged

_LOWEST = torch.finfo(torch.float32).min
_NOT_LATER = torch.ones(1, 1, 2 * CONTEXT, 2 * CONTEXT).tril()
_SLOPES = (0.25, 0.0625)

# Query, key, value [1, heads, s, 4], the decoder for its parameters: what attention gives, [1, heads, s, 4].
Written = Callable[[Tensor, Tensor, Tensor, Decoder], Tensor]


def _attend(written: Written) -> Change:
    return lambda decoder, x: merged(written(*decoder.heads(x), decoder))


def later(x: Tensor) -> Tensor:
    """True where a position lies later, bool [s, s]."""
    return torch.ones(x.shape[2], x.shape[2], dtype=torch.bool).triu(1)


def added(x: Tensor) -> Tensor:
    return later(x) * _LOWEST


def kept(x: Tensor) -> Tensor:
    """1 where a position does not lie later, 0 elsewhere: [1, 1, s, s] of a constant."""
    return _NOT_LATER[:, :, : x.shape[2], : x.shape[2]]


def blended(scores: Tensor, share: Tensor) -> Tensor:
    return scores * share + -1e4 * (1 - share)


def shared(x: Tensor) -> Tensor:
    """The first head for both query heads."""
    return x[:, :1, None].expand(-1, -1, HEADS, -1, -1).reshape(1, HEADS, -1, WIDTH // HEADS)


def scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(2, 3) * 0.5


def alibi(x: Tensor) -> Tensor:
    """By key alone, as BLOOM has it: [heads, 1, s]."""
    return torch.tensor(_SLOPES)[:, None, None] * torch.arange(x.shape[2])


def alibi_from_the_end(x: Tensor) -> Tensor:
    """By the distance from the last key, as MPT has it: [heads, 1, s]."""
    return torch.tensor(_SLOPES)[:, None, None] * (torch.arange(x.shape[2]) - x.shape[2] + 1)


def _sinks(decoder: Decoder) -> Tensor:
    return decoder.gain[:HEADS]


def _with_sink(scores: Tensor, decoder: Decoder) -> Tensor:
    column = _sinks(decoder).reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], -1)
    joined = torch.cat([scores, column], dim=-1)
    return (joined - joined.max(dim=-1, keepdim=True).values).softmax(-1)


def _gated(query: Tensor, key: Tensor, value: Tensor, decoder: Decoder) -> Tensor:
    masked = scores(query, key) + added(query)
    share = torch.sigmoid(torch.logsumexp(masked, dim=-1) - _sinks(decoder).reshape(1, -1, 1))
    return masked.softmax(-1) @ value * share.unsqueeze(-1)


def _baddbmm(query: Tensor, key: Tensor, value: Tensor, _: Decoder) -> Tensor:
    length = query.shape[2]
    q, k, v = (x.reshape(HEADS, -1, WIDTH // HEADS) for x in (query, key, value))
    product = alibi(query).baddbmm(q, k.transpose(-1, -2), beta=1.0, alpha=0.5)
    masked = product.view(1, HEADS, length, -1) + added(query)
    weights = F.softmax(masked, dim=-1, dtype=torch.float32)
    return torch.bmm(weights.view(HEADS, length, length), v).view(1, HEADS, length, WIDTH // HEADS)


def _merged_for_the_softmax(query: Tensor, key: Tensor, value: Tensor, _: Decoder) -> Tensor:
    """Heads are one axis with the batch but where the mask is added."""
    length = query.shape[2]
    q, k, v = (x.reshape(HEADS, -1, WIDTH // HEADS) for x in (query, key, value))
    masked = torch.bmm(q, k.transpose(1, 2)).view(1, HEADS, length, length) + added(query)
    weights = F.softmax(masked.view(HEADS, length, length), dim=-1)
    return torch.bmm(weights, v).view(1, HEADS, length, WIDTH // HEADS)


def _biased_by_key(query: Tensor, key: Tensor, value: Tensor, _: Decoder) -> Tensor:
    first, length = value[:, :1], query.shape[2]
    bias = first.sum(-1).sigmoid()[:, :, None].expand(-1, -1, length, -1).masked_fill(later(query), _LOWEST)
    repeated = bias[:, :, None].expand(-1, -1, HEADS, -1, -1).reshape(1, HEADS, length, length)
    return (query @ shared(key).mT * 0.5 + repeated).softmax(-1) @ shared(value)


ATTENTIONS: dict[str, Change] = {
    "native": _attend(lambda q, k, v, d: F.scaled_dot_product_attention(q, k, v, ~later(q))),
    "native causal": _attend(lambda q, k, v, d: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "native grouped": _attend(
        lambda q, k, v, d: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], ~later(q), enable_gqa=True)
    ),
    "native grouped causal": _attend(
        lambda q, k, v, d: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True)
    ),
    "native of one key head": _attend(
        lambda q, k, v, d: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], added(q))
    ),
    "native shared": _attend(lambda q, k, v, d: F.scaled_dot_product_attention(q, shared(k), shared(v), added(q))),
    "native shared causal": _attend(
        lambda q, k, v, d: F.scaled_dot_product_attention(q, shared(k), shared(v), is_causal=True)
    ),
    "mask added": _attend(lambda q, k, v, d: (scores(q, k) + added(q)).softmax(-1) @ v),
    "softmax in a type": _attend(
        lambda q, k, v, d: F.softmax((scores(q, k) + added(q)).float(), -1, dtype=torch.float32).to(v.dtype) @ v
    ),
    "key permuted": _attend(lambda q, k, v, d: (q @ k.permute(0, 1, 3, 2) * 0.5 + added(q)).softmax(3) @ v),
    "mask first": _attend(lambda q, k, v, d: (added(q) + 0.5 * (q @ k.mT)).softmax(-1) @ v),
    "query scaled": _attend(lambda q, k, v, d: (q * 0.5 @ k.mT + added(q)).softmax(-1) @ v),
    "scaled in two steps": _attend(lambda q, k, v, d: ((q @ k.mT) / 2.0 * 0.7 + added(q)).softmax(-1) @ v),
    "scaled after the mask": _attend(lambda q, k, v, d: ((q @ k.mT + added(q)) / 2.0).softmax(-1) @ v),
    "filled": _attend(lambda q, k, v, d: scores(q, k).masked_fill(later(q), -1e4).softmax(-1) @ v),
    "filled by a sum": _attend(lambda q, k, v, d: blended(scores(q, k), kept(q)).softmax(-1) @ v),
    "filled with the other order": _attend(
        lambda q, k, v, d: torch.where(~later(q), scores(q, k), torch.tensor(_LOWEST)).softmax(-1) @ v
    ),
    "filled, then added to": _attend(
        lambda q, k, v, d: (scores(q, k).masked_fill(later(q), -torch.inf) + alibi(q)).softmax(-1) @ v
    ),
    "added to, then filled": _attend(
        lambda q, k, v, d: (scores(q, k) + alibi_from_the_end(q)).masked_fill(later(q), _LOWEST).softmax(-1) @ v
    ),
    "capped": _attend(lambda q, k, v, d: ((scores(q, k) / 0.7).tanh() * 0.7 + added(q)).softmax(-1) @ v),
    "merged heads": _attend(_baddbmm),
    "biased by key": _attend(_biased_by_key),
    "merged heads for the softmax": _attend(_merged_for_the_softmax),
    "floored": _attend(lambda q, k, v, d: torch.max(scores(q, k) + added(q), torch.full((), _LOWEST)).softmax(-1) @ v),
    "sinks": _attend(lambda q, k, v, d: _with_sink(scores(q, k) + added(q), d)[..., :-1] @ v),
    "shared sinks": _attend(lambda q, k, v, d: _with_sink(scores(q, shared(k)) + added(q), d)[..., :-1] @ shared(v)),
    "sinks as a gate": _attend(_gated),
}

# What looks like attention and is something else, which nothing covers.
NEAR: dict[str, Change] = {
    "softmax over queries": _attend(lambda q, k, v, d: (scores(q, k) + added(q)).softmax(-2) @ v),
    "mask taken away": _attend(lambda q, k, v, d: (scores(q, k) - added(q)).softmax(-1) @ v),
    "filled with too little": _attend(lambda q, k, v, d: scores(q, k).masked_fill(later(q), -3.0).softmax(-1) @ v),
    "floored too high": _attend(
        lambda q, k, v, d: torch.max(scores(q, k) + added(q), torch.full((), -3.0)).softmax(-1) @ v
    ),
    "filled by a sum in part": _attend(lambda q, k, v, d: blended(scores(q, k), kept(q) * 0.5).softmax(-1) @ v),
    "biased by query": _attend(
        lambda q, k, v, d: F.scaled_dot_product_attention(
            q, k, v, (v.sum(-1)[..., None] * torch.arange(q.shape[2])).masked_fill(later(q), _LOWEST)
        )
    ),
    "bool mask added": _attend(lambda q, k, v, d: (scores(q, k) + ~later(q)).softmax(-1) @ v),
    "capped after the mask": _attend(lambda q, k, v, d: (((scores(q, k) + added(q)).tanh()) * 30).softmax(-1) @ v),
    "scaled after the cap and the mask": _attend(
        lambda q, k, v, d: ((scores(q, k).tanh() * 3 + added(q)) * 0.5).softmax(-1) @ v
    ),
    "keys against keys": _attend(lambda q, k, v, d: (k @ (k * 0.1 + k.exp()).mT).softmax(-1) @ v),
    "later positions open": _attend(lambda q, k, v, d: (scores(q, k) + added(q).mT).softmax(-1) @ v),
    "weights dropped": _attend(lambda q, k, v, d: F.scaled_dot_product_attention(q, k, v, ~later(q), 0.1)),
    "another score than the sink dropped": _attend(
        lambda q, k, v, d: _with_sink(scores(q, k) + added(q), d)[..., 1:] @ v
    ),
}
