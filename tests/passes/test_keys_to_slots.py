"""What compares each position with all others, written outside of any attention that a pattern knows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.errors import Refused
from tests import models
from tests.models import CONTEXT, HEADS, LENGTH, WIDTH, Change, Decoder, merged

COUNT = 5
ONE_RUN, TOKEN_BY_TOKEN = ((LENGTH, LENGTH),), ((1, 1),) * LENGTH
TO_THE_LAST_SLOT = ((9, 9), (1, 1), (9, 22))


def _is_later(x: Tensor) -> Tensor:
    slots = torch.arange(x.shape[1])
    return slots[None] > slots[:, None]


def _scores(decoder: Decoder, x: Tensor) -> tuple[Tensor, Tensor]:
    query, key, value = decoder.heads(x)
    return query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5, value


def attention(change: Callable[[Decoder, Tensor, Tensor], Tensor]) -> Change:
    """The strengths [1, heads, s, s] of values are `change(decoder, scores, is_later [s, s])`."""

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        scores, value = _scores(decoder, x)
        return merged(change(decoder, scores, _is_later(x)) @ value)

    return attend


def _mixed_heads(decoder: Decoder, x: Tensor) -> Tensor:
    return torch.einsum("bhqk,hg->bgqk", x, decoder.square[:HEADS, :HEADS])


def talking_heads(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Talking-heads attention (Shazeer et al., 2020)."""
    hidden = _mixed_heads(decoder, scores).masked_fill(is_later, -1e9)
    return _mixed_heads(decoder, hidden.softmax(-1))


def largest_scores(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Each row keeps the scores that are no less than its k-th largest."""
    hidden = scores.masked_fill(is_later, -torch.inf)
    least = hidden.topk(min(COUNT, hidden.shape[-1]), dim=-1).values[..., -1:]
    return hidden.masked_fill(hidden < least, -torch.inf).softmax(-1)


def sigmoid_strengths(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    return torch.where(is_later, 0.0, torch.sigmoid(scores))


def sinks_beside_a_bias(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """A sink takes part of the strengths of a row, whose bias tokens decide; one row sees next to nothing else."""
    hidden = (scores * scores.detach().sigmoid()).masked_fill(is_later, torch.finfo(scores.dtype).min)
    sinks = decoder.gain[:HEADS].view(1, HEADS, 1, 1).expand(1, HEADS, scores.shape[2], 1) * 30
    return torch.cat([hidden, sinks], dim=-1).softmax(-1)[..., :-1]


def _with_memory(decoder: Decoder, x: Tensor, hides: float, behind: bool) -> Tensor:
    """Learned keys and values beside those of the text, seen by every position, under one mask for all."""
    query, key, value = decoder.heads(x)
    memory = decoder.rows[:3].view(1, 3, HEADS, -1).transpose(1, 2)
    step = -1 if behind else 1
    keys, values = (torch.cat([memory * by, each][::step], 2) for by, each in ((1, key), (2, value)))
    scores = query @ keys.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
    hidden = torch.cat([torch.zeros(x.shape[1], 3, dtype=torch.bool), _is_later(x)][::step], 1)
    return merged(scores.masked_fill(hidden, hides).softmax(-1) @ values)


def memory_before(decoder: Decoder, x: Tensor) -> Tensor:
    return _with_memory(decoder, x, -1e9, behind=False)


def memory_behind(decoder: Decoder, x: Tensor) -> Tensor:
    return _with_memory(decoder, x, -torch.inf, behind=True)


def memory_with_a_softmax_by_hand(decoder: Decoder, x: Tensor) -> Tensor:
    query, key, value = decoder.heads(x)
    memory = decoder.rows[:3].view(1, 3, HEADS, -1).transpose(1, 2)
    keys, values = (torch.cat([memory, each], 2) for each in (key, value))
    later = torch.triu(torch.ones(x.shape[1], x.shape[1] + 3, dtype=torch.bool), 4)
    scores = torch.where(later, -torch.inf, query @ keys.mT)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return merged(weights / weights.sum(-1, keepdim=True) @ values)


def linear_strengths(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Strengths that are scores, over the sum of those so far."""
    positive = torch.relu(scores).masked_fill(is_later, 0.0)
    return positive / (positive.sum(-1, keepdim=True) + 1.0)


def from_the_left(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Stick-breaking in order: what a column takes is what those before it have left."""
    taken = torch.sigmoid(scores).masked_fill(is_later, 0.0)
    return taken * torch.exp(-taken.cumsum(-1))


def biased_by_distance(decoder: Decoder, x: Tensor) -> Tensor:
    """A learned number for each head and distance, as T5 has it."""
    return _biased(decoder, x, decoder.rows[:, :HEADS][_distance(x)])


def looked_up_by_distance(decoder: Decoder, x: Tensor) -> Tensor:
    """The same from an embedding."""
    return _biased(decoder, x, F.embedding(_distance(x), decoder.rows[: COUNT + 1, :HEADS]))


def _distance(x: Tensor) -> Tensor:
    slots = torch.arange(x.shape[1])
    return (slots[:, None] - slots[None]).clamp(0, COUNT)


def _biased(decoder: Decoder, x: Tensor, bias: Tensor) -> Tensor:
    """Attention with `bias` [s, s, heads]."""
    scores, value = _scores(decoder, x)
    return merged((scores + bias.permute(2, 0, 1)).masked_fill(_is_later(x), -1e9).softmax(-1) @ value)


def biased_by_query(decoder: Decoder, x: Tensor) -> Tensor:
    """Each query has a number of its own for each distance."""
    slots = torch.arange(x.shape[1])
    query, *_ = decoder.heads(x)
    profile = query @ decoder.rows[: COUNT + 1, : WIDTH // HEADS].T
    distance = (slots[:, None] - slots[None]).clamp(0, COUNT)
    bias = profile.gather(-1, distance.expand(1, HEADS, -1, -1))
    scores, value = _scores(decoder, x)
    return merged((scores + bias).masked_fill(_is_later(x), -1e9).softmax(-1) @ value)


def chosen_by_an_indexer(decoder: Decoder, x: Tensor) -> Tensor:
    """Attention to the keys that an indexer ranks highest (DeepSeek-V3.2, 2025)."""
    is_later = _is_later(x)[None]
    ranks = decoder.gain * x @ (x @ decoder.square).transpose(1, 2)
    index = ranks.masked_fill(is_later, -torch.inf).topk(min(COUNT, x.shape[1]), dim=-1).indices
    is_left_out = torch.ones_like(ranks, dtype=torch.bool).scatter(-1, index, False)
    scores, value = _scores(decoder, x)
    return merged(scores.masked_fill((is_left_out | is_later)[:, None], -torch.inf).softmax(-1) @ value)


def values_by_distance(decoder: Decoder, x: Tensor) -> Tensor:
    """A learned value for each head and distance (Shaw et al., 2018), weighted as those of tokens are."""
    slots = torch.arange(x.shape[1])
    learned = decoder.rows[:, : WIDTH // HEADS][(slots[:, None] - slots[None]).clamp(0, COUNT)]
    scores, value = _scores(decoder, x)
    strengths = scores.masked_fill(_is_later(x), -1e9).softmax(-1)
    return merged(strengths @ value + torch.einsum("bhqk,qkd->bhqd", strengths, learned))


def beside_a_sink(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Half of the heads' strength may go to a column that stands for nothing."""
    hidden = scores.tanh().masked_fill(is_later, -torch.inf)
    sink = decoder.gain[:HEADS].view(1, HEADS, 1, 1).expand(-1, -1, scores.shape[2], -1)
    return _mixed_heads(decoder, torch.cat([hidden, sink], dim=-1).softmax(-1)[..., :-1])


def mixed_by_a_projection(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Heads are the last axis of what is projected, for which PyTorch flattens the pairs."""
    mixed = nn.functional.linear(scores.permute(0, 2, 3, 1), decoder.square[:HEADS, :HEADS]).permute(0, 3, 1, 2)
    return mixed.masked_fill(is_later, -1e9).softmax(-1)


class Tabled(Decoder):
    """Tokens are mixed by a number that is learned for each pair of the first `count` positions."""

    def __init__(self, mixed: Change, count: int = 2 * CONTEXT) -> None:
        super().__init__(attend=mixed)
        self.table = nn.Parameter(torch.randn(count, count) / count)


def by_a_triangle(decoder: Any, x: Tensor) -> Tensor:
    return torch.exp(decoder.table[: x.shape[1], : x.shape[1]]).tril() @ x


def by_a_sum_over_rows(decoder: Any, x: Tensor) -> Tensor:
    """As gMLP mixes (Liu et al., 2021)."""
    table = decoder.table[: x.shape[1], : x.shape[1]].masked_fill(_is_later(x), 0.0)
    return torch.einsum("bnd,mn->bmd", x, table)


def by_the_other_triangle(decoder: Any, x: Tensor) -> Tensor:
    return decoder.table[: x.shape[1], : x.shape[1]].triu() @ x


COMPARISONS: dict[str, Change] = {
    "talking heads": attention(talking_heads),
    "largest scores": attention(largest_scores),
    "sigmoid": attention(sigmoid_strengths),
    "linear": attention(linear_strengths),
    "sinks": attention(sinks_beside_a_bias),
    "memory before": memory_before,
    "memory behind": memory_behind,
    "memory and a softmax by hand": memory_with_a_softmax_by_hand,
    "from the left": attention(from_the_left),
    "biased by distance": biased_by_distance,
    "looked up by distance": looked_up_by_distance,
    "biased by query": biased_by_query,
    "chosen by an indexer": chosen_by_an_indexer,
    "values by distance": values_by_distance,
    "beside a sink": attention(beside_a_sink),
    "mixed by a projection": attention(mixed_by_a_projection),
}


def assert_all_chunks_give_what_the_model_gives(module: Decoder) -> None:
    program = models.rewrite(module)
    tokens = models.random_ids()
    expected = models.logits_of_source(module, tokens)
    for sizes in (ONE_RUN, TOKEN_BY_TOKEN, TO_THE_LAST_SLOT, models.CHUNKS):
        models.assert_same(models.logits_in_chunks(program, module, tokens, sizes), expected)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_chunks_give_what_the_model_gives(comparison: str) -> None:
    assert_all_chunks_give_what_the_model_gives(Decoder(attend=COMPARISONS[comparison]))


@pytest.mark.parametrize(
    "comparison", ["largest scores", "biased by distance", "biased by query", "values by distance"]
)
def test_what_positions_decide_takes_no_table_of_all_pairs(comparison: str) -> None:
    program = models.rewrite(Decoder(attend=COMPARISONS[comparison]))
    constants = [program.graph.get_buffer(str(node.target)) for node in program.graph.graph.find_nodes(op="get_attr")]
    assert max(constant.numel() for constant in constants) < CONTEXT**2


@pytest.mark.parametrize("mixed", [by_a_triangle, by_a_sum_over_rows])
def test_a_table_of_pairs_may_be_learned(mixed: Change) -> None:
    assert_all_chunks_give_what_the_model_gives(Tabled(mixed))


def test_a_table_of_too_few_pairs_is_refused() -> None:
    with pytest.raises(Refused, match=str(CONTEXT - 1)):
        models.rewrite(Tabled(by_a_triangle, CONTEXT - 1))


def test_a_triangle_of_later_pairs_is_refused() -> None:
    with pytest.raises(Refused, match="sees positions after the row's own"):
        models.rewrite(Tabled(by_the_other_triangle))


def test_equal_ranks_give_way_to_the_first() -> None:
    """Of equal numbers PyTorch says nothing; as many are chosen as the model asks for."""

    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        ranks = (0 * x) @ x.transpose(1, 2)
        index = ranks.masked_fill(_is_later(x)[None], -torch.inf).topk(min(COUNT, x.shape[1]), dim=-1).indices
        chosen = torch.zeros_like(ranks).scatter(-1, index, 1.0).masked_fill(_is_later(x)[None], 0.0)
        return chosen @ x

    module = Decoder(attend=attend)
    program = models.rewrite(module)
    tokens = models.random_ids()
    with torch.no_grad():
        x = module.embed(torch.tensor([tokens]))
        first = torch.stack([x[0, : min(row + 1, COUNT)].sum(0) for row in range(LENGTH)])
        expected = module.head(x[0] + first)
    models.assert_same(models.logits_in_chunks(program, module, tokens), expected)


def _softmax_of_all(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    return scores.softmax(-1).masked_fill(is_later, 0.0)


def _mean_of_all(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    return scores.masked_fill(is_later, 0.0) - scores.mean(-1, keepdim=True)


def _mixed_where_hidden(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    """Heads are mixed after they are hidden: what is hidden in one may be opened by another."""
    return _mixed_heads(decoder, scores.masked_fill(is_later, -1e9)).softmax(-1)


def _twice(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    strengths = torch.sigmoid(scores).masked_fill(is_later, 0.0)
    return strengths @ strengths


def _back_to_front(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    return scores.masked_fill(is_later, -1e9).softmax(-1).flip(-1)


def _softmax_over_heads(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    return scores.masked_fill(is_later, -1e9).softmax(1)


def _one_axis(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    return scores.masked_fill(is_later, -1e9).softmax(-1).flatten(2).square().view(scores.shape)


def _learned_of_all(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    slots = torch.arange(scores.shape[-1])
    learned = decoder.rows[:, :1][(slots[:, None] - slots[None]).clamp(0, COUNT)]
    return torch.einsum("bhqk,qkd->bhqd", scores, learned).expand_as(scores).masked_fill(is_later, 0.0)


def _smallest_scores(decoder: Decoder, scores: Tensor, is_later: Tensor) -> Tensor:
    hidden = scores.masked_fill(is_later, -torch.inf)
    most = hidden.topk(min(COUNT, hidden.shape[-1]), dim=-1, largest=False).values[..., -1:]
    return hidden.masked_fill(hidden > most, -torch.inf).softmax(-1)


REFUSED = {
    "softmax over heads": (_softmax_over_heads, "sees positions after the row's own"),
    "smallest scores": (_smallest_scores, "sees positions after the row's own"),
    "softmax of all": (_softmax_of_all, "sees positions after the row's own"),
    "mean of all": (_mean_of_all, "not known to treat columns one by one"),
    "mixed where hidden": (_mixed_where_hidden, "sees positions after the row's own"),
    "twice": (_twice, "multiplies pairs with pairs"),
    "one axis": (_one_axis, "makes one axis of both"),
    "learned of all": (_learned_of_all, "sees positions after the row's own"),
    "back to front": (_back_to_front, "not known to treat columns one by one"),
}


@pytest.mark.parametrize("comparison", REFUSED)
def test_what_sees_later_positions_is_refused(comparison: str) -> None:
    change, reason = REFUSED[comparison]
    with pytest.raises(Refused, match=reason):
        models.rewrite(Decoder(attend=attention(change)))


def test_what_is_kept_shares_a_pair_of_caches() -> None:
    """An indexer keeps one value of each position, and attention its keys and values."""
    states = models.rewrite(Decoder(attend=chosen_by_an_indexer)).states
    assert [state.name for state in states] == ["kv_cache_k_0", "kv_cache_v_0", "kv_cache_k_1"]
    assert {state.capacity for state in states} == {CONTEXT}


def test_keys_are_kept_before_they_are_repeated() -> None:
    class Shared(Decoder):
        def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            query, key, value = super().heads(x)
            return query, key[:, :1].repeat_interleave(HEADS, dim=1), value[:, :1].expand(-1, HEADS, -1, -1)

    module = Shared(attend=attention(talking_heads))
    program = models.rewrite(module)
    models.assert_chunks_give_what_the_model_gives(program, module)
    assert [state.shape for state in program.states] == [(1, 1, CONTEXT, WIDTH // HEADS)] * 2
