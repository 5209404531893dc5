"""Blocks are found by their data flow, in whichever way they are written."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.diagnose.plain_blocks import plain_blocks
from autoconvert.ir.provenance import operation_name
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.tracing.one_step import trace_one_step
from autoconvert.tracing.past import past_of
from tests.models import CONTEXT, HEADS, WIDTH, Change, Decoder, merged, tiny_llama, traced

_SIZE = WIDTH // HEADS
_PAIRS = _SIZE // 2


def _mean_by_product(d: Decoder, x: Tensor) -> Tensor:
    energy = torch.einsum("bsd,bsd->bs", x, x) / WIDTH
    return x * torch.pow(energy + 1e-6, -0.5)[..., None] * (1 + d.gain)


def _mean_by_ones(d: Decoder, x: Tensor) -> Tensor:
    energy = F.linear(x * x, torch.full((1, WIDTH), 1 / WIDTH))
    return x / torch.sqrt(energy + 1e-6) * d.gain


def _dot(d: Decoder, x: Tensor) -> Tensor:
    return x / (torch.matmul(x[..., None, :], x[..., None])[..., 0] ** 0.5 + 1e-5) * d.gain


def _largest(d: Decoder, x: Tensor) -> Tensor:
    return x / x.abs().amax(-1, keepdim=True) * d.gain


def _standardised(d: Decoder, x: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(x, -1, keepdim=True)
    return (x - mean) / (deviation + 1e-5) * d.gain + d.offset


def _variance_and_mean(d: Decoder, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, keepdim=True, correction=0)
    return (x - mean) * (variance + 1e-5) ** -0.5 * d.gain + d.offset


def _moments(d: Decoder, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return d.gain * (x - mean) / (((x * x).mean(-1, keepdim=True) - mean * mean).sqrt() + 1e-5)


def _in_groups(d: Decoder, x: Tensor) -> Tensor:
    parts = torch.unflatten(x, -1, (2, -1))
    return (parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + 1e-6)).flatten(-2) * d.gain


def _behind_a_sum(d: Decoder, x: Tensor) -> Tensor:
    """The sum is over another axis than the last, which has as many entries."""
    mixed = (x[..., None] * d.square).sum(-2)
    return mixed * torch.rsqrt(mixed.square().mean(-1, keepdim=True) + 1e-6) * d.gain


NORMS: dict[str, Change] = {
    "lengths": lambda d, x: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-5) * d.gain,
    "normalised": lambda d, x: F.normalize(x, dim=-1) * d.gain,
    "logarithms": lambda d, x: x * torch.exp(-0.5 * torch.log(x.square().mean(-1, keepdim=True) + 1e-6)) * d.gain,
    "a product with itself": _mean_by_product,
    "a mean behind a sum": _behind_a_sum,
    "a product with ones": _mean_by_ones,
    "a dot product": _dot,
    "the largest": _largest,
    "standard deviation": _standardised,
    "variance and mean": _variance_and_mean,
    "moments": _moments,
    "groups": _in_groups,
}


def _rotary(turn: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """Attention whose queries and keys [1, heads, s, size] `turn` turns by angles [s, size / 2]."""

    def attend(d: Decoder, x: Tensor) -> Tensor:
        query, key, value = d.heads(x)
        angles = torch.arange(x.shape[1])[:, None] * 0.1 ** torch.arange(_PAIRS)
        return merged(F.scaled_dot_product_attention(turn(query, angles), turn(key, angles), value, is_causal=True))

    return attend


def _by_index(x: Tensor, angles: Tensor) -> Tensor:
    places = torch.unflatten(torch.arange(_SIZE), 0, (-1, 2)).flip(1).flatten()
    signs = torch.tensor([-1.0, 1.0]).repeat(_PAIRS)
    angles = angles.repeat_interleave(2, 1)
    return x * angles.cos() + x[..., places] * signs * angles.sin()


def _by_matrix(x: Tensor, angles: Tensor) -> Tensor:
    turned = torch.zeros(_SIZE, _SIZE)
    turned = turned + torch.diag(torch.ones(_PAIRS), _PAIRS) - torch.diag(torch.ones(_PAIRS), -_PAIRS)
    angles = angles.repeat(1, 2)
    return x * angles.cos() + x @ turned * angles.sin()


def _by_roll(x: Tensor, angles: Tensor) -> Tensor:
    angles = torch.cat((angles, angles), -1)
    signs = (torch.arange(_SIZE) >= _PAIRS) * 2.0 - 1.0
    return x * angles.cos() + torch.roll(x, _PAIRS, -1) * (angles.sin() * signs)


def _by_flip(x: Tensor, angles: Tensor) -> Tensor:
    pairs, signs = torch.unflatten(x, -1, (2, -1)), torch.tensor([[-1.0], [1.0]])
    return (pairs * angles[:, None].cos() + pairs.flip(-2) * signs * angles[:, None].sin()).flatten(-2)


def _by_rotations(x: Tensor, angles: Tensor) -> Tensor:
    """A matrix of two by two for each position and pair."""
    rows = torch.unflatten(torch.stack((angles.cos(), -angles.sin(), angles.sin(), angles.cos()), -1), -1, (2, 2))
    return torch.einsum("shij,bnshj->bnshi", rows, torch.unflatten(x, -1, (-1, 2))).flatten(-2)


def _by_complex(x: Tensor, angles: Tensor) -> Tensor:
    turned = torch.view_as_complex(torch.unflatten(x, -1, (-1, 2)).contiguous()) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.view_as_real(turned).flatten(-2)


def _in_place(x: Tensor, angles: Tensor) -> Tensor:
    made = torch.empty_like(x)
    made[..., :_PAIRS] = x[..., :_PAIRS] * angles.cos() - x[..., _PAIRS:] * angles.sin()
    made[..., _PAIRS:] = x[..., _PAIRS:] * angles.cos() + x[..., :_PAIRS] * angles.sin()
    return made


def _partly(x: Tensor, angles: Tensor) -> Tensor:
    turned, rest = torch.split(x, [2, _SIZE - 2], -1)
    cos, sin = angles[:, :1].cos(), angles[:, :1].sin()
    return torch.cat(
        (turned[..., :1] * cos - turned[..., 1:] * sin, turned[..., 1:] * cos + turned[..., :1] * sin, rest), -1
    )


ROTARIES: dict[str, Change] = {
    "an index": _rotary(_by_index),
    "a matrix": _rotary(_by_matrix),
    "a roll": _rotary(_by_roll),
    "a flip": _rotary(_by_flip),
    "rotations": _rotary(_by_rotations),
    "complex numbers": _rotary(_by_complex),
    "writes into parts": _rotary(_in_place),
    "a part of the width": _rotary(_partly),
}


def _fused(d: Decoder, x: Tensor) -> tuple[Tensor, ...]:
    return F.linear(x, d.rows[: 2 * WIDTH]).chunk(2, -1)


def _pairs(d: Decoder, x: Tensor) -> Tensor:
    both = torch.unflatten(F.linear(x, d.rows[: 2 * WIDTH]), -1, (WIDTH, 2))
    return F.linear(torch.tanh(both[..., 0]) * both[..., 1], d.square)


def _divided(d: Decoder, x: Tensor) -> Tensor:
    gate, up = torch.tensor_split(F.linear(x, d.rows[: 2 * WIDTH]), 2, dim=-1)
    return F.linear(gate / (1 + torch.exp(-gate)) * up, d.square)


def _divides(d: Decoder, x: Tensor) -> Tensor:
    gate, up = F.linear(x, d.square), F.linear(x, d.square.T)
    return F.linear(gate * up / (1 + torch.exp(-gate)), d.square)


def _gate_last(d: Decoder, x: Tensor) -> Tensor:
    up, gate = _fused(d, x)
    return F.linear(up * (gate.clamp(max=7.0) * torch.sigmoid(1.7 * gate)), d.square) + d.offset


def _convolved(d: Decoder, x: Tensor) -> Tensor:
    wide = F.conv1d(x.transpose(1, 2), d.rows[: 2 * WIDTH, :, None])
    return F.conv1d(F.softsign(wide[:, :WIDTH]) * wide[:, WIDTH:], d.square[..., None]).transpose(1, 2)


def _by_einsum(d: Decoder, x: Tensor) -> Tensor:
    gate, up = torch.einsum("bsd,ndf->nbsf", x, torch.unflatten(d.rows[: 2 * WIDTH], 0, (2, -1)))
    return torch.einsum("bsf,fd->bsd", F.elu(gate) * up, d.square)


def _maxout(d: Decoder, x: Tensor) -> Tensor:
    return F.linear(torch.unflatten(F.linear(x, d.square), -1, (-1, 2)).amax(-1), d.square[:, : WIDTH // 2])


def _maxout_with_indices(d: Decoder, x: Tensor) -> Tensor:
    return F.linear(torch.unflatten(F.linear(x, d.square), -1, (2, -1)).max(-2).values, d.square[:, : WIDTH // 2])


FEED_FORWARDS: dict[str, Change] = {
    "the larger of pairs": _maxout,
    "the larger of halves": _maxout_with_indices,
    "the larger of two": lambda d, x: F.linear(
        torch.maximum(F.linear(x, d.square), F.linear(x, d.square.mT)), d.square
    ),
    "two projections": lambda d, x: F.linear(F.softplus(F.linear(x, d.square)) * (x @ d.square), d.square),
    "a fused one": lambda d, x: F.linear(torch.atan(_fused(d, x)[0]) * _fused(d, x)[1], d.square),
    "torch's own": lambda d, x: F.linear(F.glu(F.linear(x, d.rows[: 2 * WIDTH])), d.square),
    "pairs": _pairs,
    "a gate written out": _divided,
    "a gate that divides": _divides,
    "a gate behind": _gate_last,
    "convolutions": _convolved,
    "einsum": _by_einsum,
}


def _written_out(weigh: Callable[[Tensor, Tensor], Tensor]) -> Change:
    """Attention by weights that `weigh` makes of scores [1, heads, s, s] and of what may be seen, bool [s, s]."""

    def attend(d: Decoder, x: Tensor) -> Tensor:
        query, key, value = d.heads(x)
        slots = torch.arange(x.shape[1])
        return merged(weigh(query @ key.transpose(2, 3) / _SIZE**0.5, slots[None] <= slots[:, None]) @ value)

    return attend


def _by_logsumexp(scores: Tensor, seen: Tensor) -> Tensor:
    scores = torch.where(seen, scores, -1e9)
    return torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))


def _by_log_softmax(scores: Tensor, seen: Tensor) -> Tensor:
    return torch.log_softmax(scores.masked_fill(~seen, -torch.inf), -1).exp()


def _by_shares(scores: Tensor, seen: Tensor) -> Tensor:
    shares = torch.exp(scores - scores.amax(-1, keepdim=True)) * seen
    return shares / shares.sum(-1, keepdim=True)


def _divided_after(d: Decoder, x: Tensor) -> Tensor:
    """The sums divide what comes out, not the weights."""
    query, key, value = d.heads(x)
    shares = torch.exp(query @ key.transpose(2, 3) / _SIZE**0.5).tril()
    return merged((shares @ value) / shares.sum(-1, keepdim=True))


ATTENTIONS: dict[str, Change] = {
    "logsumexp": _written_out(_by_logsumexp),
    "log softmax": _written_out(_by_log_softmax),
    "shares": _written_out(_by_shares),
    "sigmoid": _written_out(lambda scores, seen: torch.sigmoid(scores) * seen),
    "divided after": _divided_after,
}

CASES = [
    *(("norm", name, Decoder(mix)) for name, mix in NORMS.items()),
    *(("rotary", name, Decoder(attend=attend)) for name, attend in ROTARIES.items()),
    *(("feed_forward", name, Decoder(mix)) for name, mix in FEED_FORWARDS.items()),
    *(("attention", name, Decoder(attend=attend)) for name, attend in ATTENTIONS.items()),
]


def _gated_by_one(d: Decoder, x: Tensor) -> Tensor:
    return x * torch.sigmoid(F.linear(x, d.gain[None])) * d.offset


def _chosen(d: Decoder, x: Tensor) -> Tensor:
    """As a router's weights, which sum to one."""
    weights = torch.topk(torch.sigmoid(x), 2).values
    return F.linear(weights / weights.sum(-1, keepdim=True), d.rows[:WIDTH, :2])


NOTHING: dict[str, Change] = {
    "a largest of all positions": lambda d, x: F.linear(F.linear(x, d.square).cummax(1).values, d.square),
    "a feed-forward without a gate": lambda d, x: F.linear(F.gelu(F.linear(x, d.square)), d.square),
    "an activation written out": lambda d, x: F.linear(
        F.linear(x, d.square) * torch.tanh(F.linear(x, d.square)), d.square
    ),
    "a scale for each channel": lambda d, x: x + F.linear(x, d.square) * d.gain,
    "a gate of one number": _gated_by_one,
    "a gate of the input": lambda d, x: F.linear(x * torch.sigmoid(F.linear(x, d.square)), d.square),
    "shares of the chosen": _chosen,
    "positions that are added": lambda d, x: x + torch.arange(x.shape[1])[:, None].float().cos(),
}


def kinds(decoder: Decoder) -> list[str]:
    program = traced(decoder)
    canonicalize(program.graph, program.weights)
    return [block.kind for block in plain_blocks(program)]


@pytest.mark.parametrize(("kind", "decoder"), [(k, d) for k, _, d in CASES], ids=[f"{k} by {n}" for k, n, _ in CASES])
def test_is_found(kind: str, decoder: Decoder) -> None:
    assert kinds(decoder) == [kind] * (2 if kind == "rotary" else 1)


@pytest.mark.parametrize("name", NOTHING)
def test_is_no_block(name: str) -> None:
    assert kinds(Decoder(NOTHING[name])) == []


def test_layers_that_share_a_learned_bias_are_two_blocks() -> None:
    """No token decides it, so it belongs to neither, though it has a number for each pair."""

    def twice(d: Decoder, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[1])
        bias = F.embedding(at[:, None] - at + CONTEXT, d.rows)[..., 0]

        def attend(x: Tensor) -> Tensor:
            query, key, value = d.heads(x)
            return merged(torch.exp2(query @ key.mT + bias).tril() @ value)

        return attend(x + attend(x))

    assert kinds(Decoder(attend=twice)) == ["attention", "attention"]


def test_a_single_step_has_the_blocks_of_a_whole_text() -> None:
    module = tiny_llama(attn_implementation="eager")
    step = trace_one_step(module, past_of(module, CONTEXT), CONTEXT)
    canonicalize(step.graph, step.weights)
    blocks = plain_blocks(step)
    layer = ["norm", "rotary", "rotary", "attention", "norm", "feed_forward"]
    assert [block.kind for block in blocks] == [*layer, *layer, "norm"]
    attention = blocks[3]
    operations = [operation_name(node) for node in attention.nodes]
    assert operations == ["matmul", "mul", "add", "softmax.int", "matmul"]
    # Queries, keys, the mask and values: neither is a history part of it, nor how a mask comes about.
    assert len(attention.inputs) == 4
