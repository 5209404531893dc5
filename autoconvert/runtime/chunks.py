"""Chunks: a run split the way the runtime splits it, with padding, masks and positions as it writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoconvert.ir.interface import Role
from autoconvert.ops.attention import CLOSED


@dataclass(frozen=True)
class Chunk:
    """Inputs of one call by role: tokens int64 [1, size], where they go int32 [size], a mask [1, 1, size, context].

    The first `real` of `size` slots are tokens; the rest is padding, written as token 0 at position 0.
    """

    inputs: Mapping[Role, Tensor]
    real: int

    @property
    def size(self) -> int:
        return self.inputs[Role.TOKENS].shape[1]


def chunk(tokens: Sequence[int], start: int, size: int, context: int, first: int = 0) -> Chunk:
    """The chunk of `size` slots that holds `tokens` from position `start` on, of a text that begins at `first`."""
    real = len(tokens)
    ids, positions = torch.zeros(1, size, dtype=torch.int64), torch.zeros(size, dtype=torch.int32)
    ids[0, :real] = torch.tensor(tokens)
    positions[:real] = torch.arange(start, start + real)
    mask = torch.full((1, 1, size, context), CLOSED)
    for row in range(real):
        mask[0, 0, row, first : start + row + 1] = 0.0
    return Chunk({Role.TOKENS: ids, Role.INPUT_POS: positions, Role.MASK: mask}, real)


def split(tokens: Sequence[int], sizes: Sequence[tuple[int, int]], context: int, first: int = 0) -> list[Chunk]:
    """Chunks of (real, size) slots in a row; together they hold all of `tokens`, a text that begins at `first`."""
    chunks, start = [], 0
    for real, size in sizes:
        chunks.append(chunk(tokens[start : start + real], first + start, size, context, first))
        start += real
    assert start == len(tokens)
    return chunks


def plan_prefill(count: int, lengths: Sequence[int], context: int) -> list[tuple[int, int]]:
    """How `count` tokens fill prefill signatures of `lengths`: (real, size), longest first, the last padded.

    As the runtime does, a part-filled chunk is taken only where its full length fits the context. What does not
    fit any signature is left for decode, as single slots.
    """
    sizes: list[tuple[int, int]] = []
    done = 0
    for length in sorted(lengths, reverse=True):
        while count - done >= length:
            sizes.append((length, length))
            done += length
    shortest = min(lengths)
    if done < count and done + shortest <= context:
        sizes.append((count - done, shortest))
        done = count
    return sizes + [(1, 1)] * (count - done)
