"""What is proven to treat positions one by one, and what is refused, with the operation named."""

import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.analysis.sequence_axis import check_sequence_axis
from autoconvert.errors import Refused
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.fold_weights import fold_weights
from tests import models
from tests.models import Decoder

Mix = Callable[[Decoder, Tensor], Tensor]

CAUSAL = F.scaled_dot_product_attention

SEPARATE: dict[str, Mix] = {
    "pointwise": lambda d, x: torch.tanh(x) * d.gain + d.offset,
    "norm over the width": lambda d, x: x * (x * x).mean(-1, keepdim=True).rsqrt(),
    "softmax over the width": lambda d, x: x.softmax(2),
    "sum over the width": lambda d, x: x + x.sum(2, keepdim=True),
    "largest of the width": lambda d, x: x - x.amax(-1, keepdim=True),
    "linear": lambda d, x: F.linear(x, d.square, d.offset),
    "matrix product": lambda d, x: x @ d.square,
    "heads apart and together": lambda d, x: x.view(1, -1, 2, 4).transpose(1, 2).mul(2).transpose(1, 2).flatten(2),
    "permuted there and back": lambda d, x: x.view(1, -1, 2, 4).permute(2, 0, 3, 1).permute(1, 3, 0, 2).flatten(2),
    "permuted within": lambda d, x: x.view(1, -1, 2, 2, 2).permute(0, 1, 3, 4, 2).flatten(2),
    "flattened batch": lambda d, x: F.linear(x.view(-1, models.WIDTH), d.square)[None],
    "slice of the width": lambda d, x: torch.cat((x[..., 3:], x[..., :3]), -1),
    "slice of more than there is": lambda d, x: x + x[..., -11:],
    "parts of the width": lambda d, x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "select of the width": lambda d, x: x * x[..., 0].unsqueeze(-1),
    "lookup by token": lambda d, x: x + d.embed((x.sum(-1) > 0).long()),
    "where by token": lambda d, x: torch.where(x.sum(-1, keepdim=True) > 0, x, -x),
    "in place": lambda d, x: x.clone().mul_(2).add_(d.offset),
    "squeezed batch": lambda d, x: x.squeeze(0).relu().unsqueeze(0),
}

MIXING: dict[str, tuple[Mix, str]] = {
    "cumsum": (lambda d, x: x.cumsum(1), "cumsum"),
    "cumsum by keyword": (lambda d, x: x.cumsum(dim=-2), "cumsum"),
    "cummax": (lambda d, x: x.cummax(1).values, "cummax"),
    "convolution": (
        lambda d, x: F.conv1d(x.mT, d.square[:, :, None].expand(-1, -1, 3), padding=1).mT,
        "conv1d",
    ),
    "softmax": (lambda d, x: x.softmax(1), "softmax"),
    "softmax by keyword": (lambda d, x: torch.softmax(x, dim=-2), "softmax"),
    "log softmax": (lambda d, x: x.log_softmax(1), "log_softmax"),
    "mean": (lambda d, x: x - x.mean(1, keepdim=True), "mean"),
    "mean of everything": (lambda d, x: x - x.mean(), "mean"),
    "mean over no axis": (lambda d, x: x - x.mean(dim=()), "mean"),
    "mean over None": (lambda d, x: x - x.mean(dim=None), "mean"),
    "sum over None": (lambda d, x: x - x.sum(dim=None), "sum"),
    "sum of everything": (lambda d, x: x - x.sum(), "sum"),
    "sum over both": (lambda d, x: x - x.sum((1, 2), keepdim=True), "sum"),
    "largest": (lambda d, x: x - x.amax(1, keepdim=True), "amax"),
    "largest of everything": (lambda d, x: x - x.amax(), "amax"),
    "largest with its place": (lambda d, x: x - x.max(1, keepdim=True).values, "max"),
    "logsumexp": (lambda d, x: x - x.logsumexp(1, keepdim=True), "logsumexp"),
    "flip": (lambda d, x: x.flip(1), "flip"),
    "roll": (lambda d, x: x.roll(1, 1), "roll"),
    "sort": (lambda d, x: x.sort(1).values, "sort"),
    "topk": (lambda d, x: x - x.topk(1, 1).values, "topk"),
    "norm of everything": (lambda d, x: x / x.norm(), "norm"),
    "variance": (lambda d, x: x / x.var(1, keepdim=True), "var"),
    "first position": (lambda d, x: x + x[:, :1], "slice"),
    "last position": (lambda d, x: x + x[:, -1:], "slice"),
    "last position selected": (lambda d, x: x + x[:, -1, :].unsqueeze(1), "select"),
    "previous position": (lambda d, x: x + F.pad(x, (0, 0, 1, 0))[:, :-1], "pad"),
    "indexed": (lambda d, x: x[:, torch.zeros(1, dtype=torch.int64)] + x, "index"),
    "gathered": (lambda d, x: x.gather(1, (x > 0).long()), "gather"),
    "rows by token": (
        lambda d, x: x + x[0].index_select(0, torch.zeros(1, dtype=torch.int64)),
        "index_select",
    ),
    "contraction": (lambda d, x: x @ (x.mT @ x), "matmul"),
    "scores": (lambda d, x: (x @ x.mT).tril() @ x, "matmul"),
    "einsum over positions": (lambda d, x: torch.einsum("bsd,bte->bse", x, x), "sum"),
    "pairs by broadcasting": (lambda d, x: (x[:, :, None] * x[:, None]).mean(2), "mul"),
    "mask of columns and rows": (
        lambda d, x: torch.where(x[..., 0].unsqueeze(2) > x[..., 0].unsqueeze(1), 1.0, 0.0).sum(-1, keepdim=True) + x,
        "gt",
    ),
    "merged with the width": (lambda d, x: x.reshape(1, -1).softmax(-1).view(x.shape), "softmax"),
    "doubled": (lambda d, x: torch.cat((x, x), 1).view(1, -1, 2, models.WIDTH)[:, :, 0], "cat"),
    "as many copies": (lambda d, x: x * d.gain.repeat(x.shape[1], 1).sum(0), "sum"),
    "as an expanded weight": (lambda d, x: x * d.gain.expand(x.shape[1], -1).sum(0), "sum"),
    "as ones": (lambda d, x: x * (d.gain.new_ones((x.shape[1], 1)) * d.gain).sum(0), "sum"),
    "attention both ways": (lambda d, x: models.merged(CAUSAL(*d.heads(x))), "scaled_dot_product_attention"),
    "instance norm": (lambda d, x: F.instance_norm(x.mT).mT, "norm"),
    "group norm": (lambda d, x: F.group_norm(x.mT, 2).mT, "group_norm"),
}

LENGTH: dict[str, tuple[Mix, str]] = {
    "as an integer": (lambda d, x: x * x.shape[1], "mul"),
    "as a fraction": (lambda d, x: x * (x.shape[1] * 0.5), "mul"),
    "as a divisor": (lambda d, x: x / x.shape[1], "div"),
    "as a power": (lambda d, x: x.abs() ** x.shape[1], "pow"),
    "as a limit": (lambda d, x: x.clamp(max=x.shape[1] - 5), "clamp"),
    "choosing a row": (lambda d, x: x * d.rows[x.shape[1] - 1], "select"),
    "choosing a row by a fraction": (lambda d, x: x * d.rows.select(0, x.shape[1] // 4), "select"),
    "cutting a weight": (lambda d, x: x + d.rows[1 : x.shape[1] + 1], "slice"),
    "cutting a weight with an axis more": (lambda d, x: x + d.rows[None, 1 : x.shape[1] + 1], "slice"),
    "narrowing a weight": (lambda d, x: x + d.rows.narrow(0, 1, x.shape[1]), "slice|narrow"),
}

RANDOM: dict[str, Mix] = {
    "for each value": lambda d, x: x * torch.rand_like(x),
    "for each channel": lambda d, x: x * torch.rand(models.WIDTH),
    "dropout": lambda d, x: F.dropout(x, 0.5, training=True),
}


class Pointless(Decoder):
    """No attention: only `mix` stands between the embedding and the head."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mix(self, self.embed(tokens)))
        return logits


def prove(module: nn.Module) -> None:
    program = models.traced(module)
    program = fold_weights(program.with_graph(canonicalize(program.graph, program.weights)))
    assert program.stream is not None
    check_sequence_axis(program.graph.graph, program.stream)


def split_gives_the_same(module: nn.Module) -> bool:
    tokens = models.random_ids()
    whole = models.logits_of_source(module, tokens)
    parts = [models.logits_of_source(module, part) for part in (tokens[:7], tokens[7:12], tokens[12:])]
    return torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize("name", SEPARATE)
def test_what_treats_positions_one_by_one_is_accepted(name: str) -> None:
    module = Pointless(SEPARATE[name])
    assert split_gives_the_same(module)
    prove(module)


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_positions_is_refused_by_name(name: str) -> None:
    mix, operation = MIXING[name]
    with pytest.raises(Refused, match=rf"({operation}).* cannot be split into chunks"):
        prove(Pointless(mix))


@pytest.mark.parametrize("name", MIXING)
def test_the_mixing_examples_do_mix(name: str) -> None:
    assert not split_gives_the_same(Pointless(MIXING[name][0]))


@pytest.mark.parametrize("name", LENGTH)
def test_arithmetic_with_the_length_is_refused_by_name(name: str) -> None:
    mix, operation = LENGTH[name]
    module = Pointless(mix)
    assert not split_gives_the_same(module)
    with pytest.raises(Refused, match=rf"({operation}).*computes with the length"):
        prove(module)


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="draws random numbers"):
        prove(Pointless(RANDOM[name]))


def test_position_ids_counted_from_tokens_are_refused() -> None:
    class Counted(Pointless):
        def forward(self, tokens: Tensor) -> Tensor:
            ids = torch.cumsum((tokens != 1).int(), 1) * (tokens != 1)
            logits: Tensor = self.head(self.embed(tokens) + F.embedding(ids.long(), self.rows))
            return logits

    with pytest.raises(Refused, match="cumsum"):
        prove(Counted())


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "without a batch": lambda x: x[0],
        "with the axes exchanged": lambda x: x.transpose(1, 2),
        "with an axis more": lambda x: x[:, None],
    }.items(),
)
def test_logits_of_another_shape_are_refused(name: str, change: Callable[[Tensor], Tensor]) -> None:
    class Reshaped(Pointless):
        def forward(self, tokens: Tensor) -> Tensor:
            return change(super().forward(tokens))

    with pytest.raises(Refused, match=re.escape("not [1, sequence, vocabulary]")):
        prove(Reshaped())


def test_logits_of_the_last_position_alone_are_refused() -> None:
    class Last(Pointless):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens)[:, -1:]

    with pytest.raises(Refused, match="slice"):
        prove(Last())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("over heads", r"attention.* cannot be split into chunks"),
        ("bidirectional", "it sees positions after the row's own"),
        ("towards learned keys", "there is no state to keep"),
    ],
)
def test_attention_that_is_not_causal_over_the_sequence_is_refused(kind: str, reason: str) -> None:
    def attend(decoder: Decoder, x: Tensor) -> Tensor:
        query, key, value = decoder.heads(x)
        if kind == "over heads":
            query, key, value = (part.transpose(1, 2) for part in (query, key, value))
            return F.scaled_dot_product_attention(query, key, value, is_causal=True).reshape(1, -1, models.WIDTH)
        if kind == "bidirectional":
            return models.merged(F.scaled_dot_product_attention(query, key, value, scale=0.3))
        learned = decoder.rows.view(1, 1, -1, models.WIDTH)[..., : models.WIDTH // models.HEADS].expand(1, 2, -1, -1)
        return models.merged(F.scaled_dot_product_attention(query, learned, learned, scale=0.3))

    with pytest.raises(Refused, match=reason):
        models.rewrite(Decoder(attend=attend))


def test_the_message_names_module_file_and_line() -> None:
    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1) / math.pi

    class Outer(Pointless):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Layer()

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.head(self.inner(self.embed(tokens)))
            return logits

    line = Layer.forward.__code__.co_firstlineno + 1
    with pytest.raises(Refused, match=rf"cumsum in inner \({re.escape(__file__)}:{line}: return x.cumsum"):
        prove(Outer())
