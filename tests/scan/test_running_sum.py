"""A running sum is the same in chunks as at once, and padding adds nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.scan.running_sum import RunningSum
from autoconvert.scan.scan import StatefulScan
from tests.models import Decoder, assert_same, logits_in_chunks, logits_of_source, rewrite

LENGTH, WIDTH = 7, 2


def rows(dtype: torch.dtype) -> Tensor:
    return torch.randint(-3, 4, (LENGTH, WIDTH), generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int32])
def test_sums_rows_in_their_own_type(dtype: torch.dtype) -> None:
    (sums,) = RunningSum(WIDTH)(rows(dtype))
    assert sums.dtype == dtype
    assert torch.equal(sums, rows(dtype).cumsum(0).to(dtype))


@pytest.mark.parametrize("sizes", [[1] * 7, [4, 3], [1, 5, 1]])
def test_chunks_give_what_one_run_gives(sizes: list[int]) -> None:
    x, carried, state, parts, start = (
        rows(torch.int64),
        StatefulScan(RunningSum(WIDTH)),
        torch.zeros(1, WIDTH),
        [],
        0,
    )
    for size in sizes:
        part, state = carried(torch.arange(start, start + size, dtype=torch.int32), state, x[start : start + size])
        parts.append(part)
        start += size
    assert torch.equal(torch.cat(parts), x.cumsum(0))


def test_padding_adds_nothing() -> None:
    x, carried = rows(torch.float32), StatefulScan(RunningSum(WIDTH))
    _, state = carried(torch.tensor([5, 6, 0, 0], dtype=torch.int32), torch.ones(1, WIDTH), x[:4])
    assert torch.equal(state, 1 + x[:2].sum(0, keepdim=True))


class CountingFromTokens(Decoder):
    """Positions count the tokens that are not 1, as RoBERTa's do."""

    def forward(self, tokens: Tensor) -> Tensor:
        is_word = tokens.ne(1).int()
        places = (torch.cumsum(is_word, dim=1).type_as(is_word) * is_word).long() + 1
        x = self.embed(tokens) + F.embedding(places, self.rows)
        logits: Tensor = self.head(x + self.attend(self, x))
        return logits


def test_positions_may_be_counted_from_tokens() -> None:
    module = CountingFromTokens()
    tokens = [5, 1, 1, 7, 2, 1, 3, 9, 1, 1, 4, 1, 6, 1, 1, 1, 1, 8, 2]
    assert_same(logits_in_chunks(rewrite(module), module, tokens), logits_of_source(module, tokens))
