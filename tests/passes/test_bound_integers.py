"""Whole numbers that the device cannot hold are refused, with their place; those that fit are carried."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.errors import Refused
from autoconvert.ir.program import Program
from tests.models import CONTEXT, VOCABULARY, WIDTH, Decoder, rewrite

Numbers = Callable[[Tensor], Tensor]


class Hashed(nn.Module):
    """A decoder whose embeddings are joined by what is computed from tokens and looked up in a table of 7 rows."""

    def __init__(self, numbers: Numbers, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.numbers = Decoder(), numbers
        self.decoder.embed, self.decoder.head = nn.Embedding(vocabulary, WIDTH), nn.Linear(WIDTH, vocabulary)
        self.table = nn.Embedding(7, WIDTH)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        decoder = self.decoder
        x = decoder.embed(tokens)
        x = x + decoder.attend(decoder, x)
        logits: Tensor = decoder.head(x + self.table(self.numbers(tokens)))
        return logits


def rewritten(numbers: Numbers, vocabulary: int = VOCABULARY) -> Program:
    return rewrite(Hashed(numbers, vocabulary))


LARGE = 600_000

TOO_LARGE: dict[str, tuple[Numbers, int, str]] = {
    "a product": (lambda x: (x * 400000003 + 12345) % 7, VOCABULARY, "mul"),
    "a sum along the sequence": (lambda x: x.cumsum(1) % 7, LARGE, "running_sum"),
    "a constant": (lambda x: (x + 2**40) % 7, VOCABULARY, "add"),
    "a bound": (lambda x: (x < 2**40).to(torch.int64), VOCABULARY, "lt"),
    "a table": (lambda x: (x + torch.tensor([2**33])) % 7, VOCABULARY, "add"),
    "a power": (lambda x: (x**8) % 7, VOCABULARY, "pow|mul"),
    "float64": (lambda x: (x.cumsum(1).double() * 40000003).sin().mul(3).abs().long(), VOCABULARY, "_to_copy"),
    "a cast of any number": (lambda x: (x.float() / (x - 3.5) * 1e9).long() % 7, VOCABULARY, "_to_copy"),
    "what wraps around": (lambda x: (x.to(torch.uint8) * 9).long() % 7, VOCABULARY, "mul"),
    "a shift": (lambda x: (x << 28) % 7, VOCABULARY, "lshift"),
}

FITTING: dict[str, tuple[Numbers, int]] = {
    "a hash that fits": (lambda x: (x * 40000003 + 12345) % 7, VOCABULARY),
    "a sum of truths": (lambda x: (x > 3).cumsum(1) % 7, LARGE),
    "a sum that fits": (lambda x: x.cumsum(1) % 7, VOCABULARY),
    "a remainder first": (lambda x: (x % 1000).cumsum(1) % 7, LARGE),
    "places of the largest": (lambda x: F.one_hot(x % 7, 7).topk(2)[1][..., 0], LARGE),
    "a choice": (lambda x: torch.where(x > 5, x % 7, 0).clamp(0, 6), LARGE),
    "quotients": (lambda x: (x // 100000).clamp(max=6), LARGE),
    "float64": (lambda x: (x.double() * 0.001).sigmoid().mul(6).long(), VOCABULARY),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_may_not_fit_is_refused_with_its_place(name: str) -> None:
    numbers, vocabulary, operation = TOO_LARGE[name]
    with pytest.raises(Refused, match=rf"({operation}).*test_bound_integers.*device"):
        rewritten(numbers, vocabulary)


@pytest.mark.parametrize("name", FITTING)
def test_what_fits_is_carried(name: str) -> None:
    rewritten(*FITTING[name])


def test_the_rows_of_the_table_say_how_many_tokens_there_are() -> None:
    rewritten(lambda x: x.cumsum(1) % 7, 2**24 // CONTEXT)
    with pytest.raises(Refused, match="running_sum"):
        rewritten(lambda x: x.cumsum(1) % 7, 2**24 // CONTEXT + 2)


class Scaled(Hashed):
    """As it, the logits scaled by a floating-point number of each position."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder.head(self.decoder.embed(tokens)) * self.numbers(tokens)[..., None]


def test_a_sum_of_counted_floats_is_bounded_as_one_of_whole_numbers() -> None:
    rewrite(Scaled(lambda x: x.float().cumsum(1) / 1000))
    with pytest.raises(Refused, match=r"running_sum.*test_bound_integers.*device"):
        rewrite(Scaled(lambda x: x.float().cumsum(1) / 1000, LARGE))
    rewrite(Scaled(lambda x: (x.float() * 0.1).cumsum(1) / 1000, LARGE))
