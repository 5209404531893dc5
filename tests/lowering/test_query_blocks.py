"""Attention in blocks of queries computes what attention does, with every length known before it is run."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.ir.interface import Role
from autoconvert.ir.program import HISTORY, LENGTH
from autoconvert.lowering.flatbuffer import write_model
from autoconvert.lowering.open_lengths import open_lengths
from autoconvert.lowering.query_blocks import in_query_blocks
from autoconvert.ops.attention import CLOSED
from tests.lowering.on_device import lowered, operations, postponed, run, shared_concatenations

WIDTH, WINDOW = 4, 5
PORTS = {Role.INPUT_POS: "x5", Role.MASK: "x6"}
LENGTHS = {LENGTH: (24, 40), HISTORY: (192, 336)}
SINKS = torch.linspace(-1, 1, 4)

PLAIN: dict[str, Any] = {"window": 0}
KINDS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "with a window": {"window": WINDOW},
    "capped": {"window": 0, "softcap": 3.0},
    "in chunks": {"window": 0, "chunk_size": 4},
    "with sinks": {"window": WINDOW, "sinks": SINKS},
}


def attention(*tensors: Tensor, **how: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Over caches that have the context as axis 2."""
    attended: tuple[Tensor, Tensor, Tensor] = ops.cached_attention(*tensors, 2, 2, 0.5, **how)
    return attended


def call(queries: int, start: int, context: int, heads: int = 4, groups: int = 2) -> tuple[Tensor, ...]:
    """What attention is given for `queries` tokens from position `start` on."""
    random = partial(torch.randn, generator=torch.Generator().manual_seed(queries))
    chunk = random(1, heads, queries, WIDTH), *(random(1, groups, queries, WIDTH) for _ in range(2))
    caches = (random(1, groups, context, WIDTH) for _ in range(2))
    input_pos = torch.arange(start, start + queries, dtype=torch.int32)
    mask = torch.where(torch.arange(context) <= input_pos[:, None], 0.0, CLOSED)
    return *chunk, *caches, input_pos, mask[None, None]


def in_blocks(how: dict[str, Any], queries: int | None = None, heads: int = 4, groups: int = 2) -> bytes:
    """Attention with open lengths, or of so many queries."""
    given = [(queries or length, 0, context) for length, context in zip(*LENGTHS.values(), strict=True)]
    lengths = LENGTHS if queries is None else {HISTORY: LENGTHS[HISTORY]}
    one, other = (lowered(partial(attention, **how), *call(*sizes, heads, groups)) for sizes in given)
    return write_model(in_query_blocks(open_lengths(one, other, lengths), PORTS))


CALLS = [(1, 0, 1), (1, 3, 9), (2, 0, 2), (7, 0, 7), (8, 1, 9), (9, 0, 16), (16, 20, 40), (31, 0, 31), (70, 5, 80)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_any_length_is_computed(kind: str) -> None:
    content = in_blocks(KINDS[kind])
    for queries, start, context in CALLS:
        tensors = call(queries, start, context)
        for found, expected in zip(run(content, *tensors), attention(*tensors, **KINDS[kind]), strict=True):
            torch.testing.assert_close(found, expected)
        assert not postponed(content, *(tensor.shape for tensor in tensors))


@pytest.mark.parametrize(("heads", "groups"), [(3, 3), (4, 1), (1, 1)])
def test_heads_may_share_keys_or_not(heads: int, groups: int) -> None:
    content = in_blocks(PLAIN, heads=heads, groups=groups)
    for sizes in CALLS:
        tensors = call(*sizes, heads, groups)
        torch.testing.assert_close(run(content, *tensors)[0], attention(*tensors, **PLAIN)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_cut(kind: str) -> None:
    assert operations(in_blocks(KINDS[kind]))["BATCH_MATMUL"] == 2 * operations(in_blocks(PLAIN))["SOFTMAX"] > 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_concatenation_is_shared_with_other_kernels(kind: str) -> None:
    assert not shared_concatenations(in_blocks(KINDS[kind]))


@pytest.mark.parametrize("context", [1, 4, 5, 6, 30])
def test_a_single_query_reads_no_more_than_its_window(context: int) -> None:
    content = in_blocks({"window": WINDOW}, queries=1)
    tensors = call(1, context - 1, context)
    torch.testing.assert_close(run(content, *tensors)[0], attention(*tensors, window=WINDOW)[0])
    # Of keys, values, the mask and the numbers of its slots.
    assert operations(content)["GATHER"] == 4
    assert not operations(in_blocks(PLAIN, queries=1))["GATHER"]


@pytest.mark.parametrize("window", [0, WINDOW])
def test_keys_that_no_query_of_a_block_may_see_are_not_multiplied(window: int) -> None:
    """A value that is no number would reach every result of a product that it is part of."""
    content = in_blocks({"window": window})
    for missing in (15, 40):
        query, key, value, *others = call(64, 0, 64)
        value[:, :, missing] = torch.nan
        is_number = ~run(content, query, key, value, *others)[0].isnan().any(-1)[0, 0]
        # Eight queries are a block.
        reached = range(missing // 8 * 8, 64 if not window else (missing + window + 7) // 8 * 8)
        assert is_number.tolist() == [query not in reached for query in range(64)]


def opened_for_some(query: Tensor, key: Tensor, value: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Attention to the first slots whatever the mask says."""
    keys, values, input_pos, mask = others
    row = mask[:, :, :1]
    near = (row == row).to(torch.int32).cumsum(-1, dtype=torch.int32) <= 60
    return attention(query, key, value, keys, values, input_pos, torch.where(near, 0.0, mask), **PLAIN)


def test_a_mask_that_opens_what_is_hidden_is_no_causal_one() -> None:
    """Its attention stays whole: later keys may count."""
    given = [call(length, 0, context) for length, context in zip(*LENGTHS.values(), strict=True)]
    one, other = (lowered(opened_for_some, *tensors) for tensors in given)
    content = write_model(in_query_blocks(open_lengths(one, other, LENGTHS), PORTS))
    tensors = call(64, 0, 64)
    torch.testing.assert_close(run(content, *tensors)[0], opened_for_some(*tensors)[0])
    assert not shared_concatenations(content)
