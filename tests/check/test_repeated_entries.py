"""Caches that hold numbers several times are found wherever heads are repeated, and a pattern mends it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.check.repeated_entries import repeated_entries
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pattern import Pattern
from tests.models import CONTEXT, rewrite

HEADS, GROUPS, WIDTH = 6, 2, 4
TIMES = HEADS // GROUPS
Change = Callable[[Tensor], Tensor]


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(TIMES, 1)


class Decoder(nn.Module):
    """Attention to what is made of the keys and values of few heads."""

    def __init__(self, of_keys: Change, of_values: Change, heads: int = HEADS) -> None:
        super().__init__()
        self.of_keys, self.of_values = of_keys, of_values
        width = heads * WIDTH
        self.embed, self.query = nn.Embedding(31, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, GROUPS * WIDTH), nn.Linear(width, GROUPS * WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        query, key, value = (
            layer(x).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        made = F.scaled_dot_product_attention(query, self.of_keys(key), self.of_values(value), is_causal=True)
        return F.linear(x + made.transpose(1, 2).flatten(2), self.embed.weight)


def normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, (WIDTH,), eps=1e-6)


def test_heads_that_are_repeated_right_before_attention_are_kept_once() -> None:
    assert repeated_entries(rewrite(Decoder(repeated, repeated))) == []


@pytest.mark.parametrize("then", [normed, torch.tanh, torch.relu], ids=["norm", "tanh", "relu"])
def test_heads_that_are_repeated_before_something_else_are_found(then: Change) -> None:
    (found,) = repeated_entries(rewrite(Decoder(lambda key: then(repeated(key)), repeated)))
    assert found.caches == ("kv_cache_k_0", "kv_cache_v_0") and found.times == TIMES
    assert found.nbytes == 2 * CONTEXT * (HEADS - GROUPS) * WIDTH * 4
    assert "test_repeated_entries.py:" in found.at


def test_other_numbers_that_are_equal_are_no_repetition() -> None:
    """Half of them are zero, and what is repeated is only what they are multiplied by."""
    gain = torch.rand(1, WIDTH)

    def gated(key: Tensor) -> Tensor:
        return torch.relu(key * (key.mean(-1, keepdim=True).expand(-1, -1, -1, WIDTH) + gain))

    assert repeated_entries(rewrite(Decoder(gated, gated, heads=GROUPS))) == []


def test_a_pattern_that_repeats_later_keeps_them_once() -> None:
    later = Pattern(
        "tanh.of_few",
        "activation",
        lambda x: torch.tanh(x[:, :, None].expand(-1, -1, TIMES, -1, -1).flatten(1, 2)),
        lambda x: torch.tanh(x)[:, :, None].expand(-1, -1, TIMES, -1, -1).flatten(1, 2),
        {"x": (1, GROUPS, 5, 14)},
    )
    module = Decoder(lambda key: torch.tanh(repeated(key)), repeated)
    assert repeated_entries(rewrite(module, patterns=(later, *PATTERNS))) == []
