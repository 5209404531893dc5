"""Linear layers of experts on the device: the rows of the chosen matrices are looked up, for blocks of pairs.

EMBEDDING_LOOKUP reads only the rows that are asked for, and widens them where they are quantized, so that one token
touches the weights of its own experts. Many tokens share experts: their pairs are sorted by expert and cut into blocks
of one expert each, so that a matrix is looked up once for a block, not once for a pair (as in Gale et al., 2022).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.lowering.tfl_operations import tfl_operations

# Looking a number up, writing it and reading it again takes as long as so many multiply-adds (measured on two cores).
_LOOKUP_COST = 80
# What one lookup may write, as float32; a single matrix may be larger.
_LOOKUP_BYTES = 64 << 20


@dataclass(frozen=True)
class Blocks:
    """Where pairs go: `block` of them at a time, with `expert` int32 [blocks]; `slot` int32 [pairs] and back."""

    block: int
    expert: Tensor
    slot: Tensor
    pair: Tensor


def expert_linear(x: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    """As ops.expert_linear."""
    experts = weight.shape[0] // width
    expert = torch.where(expert < 0, expert + experts, expert).to(torch.int32)
    block = block_size(x.shape[0], experts)
    if block == 1:
        return _products(x[:, None], weight, expert, width)[:, 0]
    blocks = into_blocks(expert, experts, block)
    rows = F.embedding(blocks.pair, x).reshape(-1, block, x.shape[1])
    products = _products(rows, weight, blocks.expert, width)
    return F.embedding(blocks.slot, products.reshape(-1, width))


def block_size(pairs: int, experts: int) -> int:
    """How many pairs share a lookup at the least cost: every block is looked up, and multiplied as if it were full."""
    sizes = [1 << exponent for exponent in range(pairs.bit_length())]
    return min(sizes, key=lambda block: _most_blocks(pairs, experts, block) * (_LOOKUP_COST + block))


def _most_blocks(pairs: int, experts: int, block: int) -> int:
    """However the pairs fall on the experts: each of these leaves one block less than full by at most block − 1."""
    return (pairs + min(pairs, experts) * (block - 1)) // block


def into_blocks(expert: Tensor, experts: int, block: int) -> Blocks:
    """Places for pairs with `expert` int32 [pairs], those of one expert in blocks of their own."""
    pairs = expert.shape[0]
    blocks = _most_blocks(pairs, experts, block)
    chosen = (expert[:, None] == torch.arange(experts, dtype=torch.int32)).to(torch.int32)
    # How many pairs each expert has had so far; how many blocks all experts up to it need.
    counts = chosen.cumsum(0, dtype=torch.int32)
    needed = torch.div(counts[-1] + (block - 1), block, rounding_mode="floor")
    ends = needed.cumsum(0, dtype=torch.int32)
    slot = (chosen * ((ends - needed) * block + counts - 1)).sum(1, dtype=torch.int32)
    pair = torch.zeros(blocks * block, dtype=torch.int32).scatter(
        0, slot.to(torch.int64), torch.arange(pairs, dtype=torch.int32)
    )
    passed = (torch.arange(blocks, dtype=torch.int32)[:, None] >= ends).to(torch.int32).sum(1, dtype=torch.int32)
    return Blocks(block, passed.clamp(max=experts - 1), slot, pair)


def _products(rows: Tensor, weight: Tensor, expert: Tensor, width: int) -> Tensor:
    """Rows [blocks, block, in] times the matrix of `expert` int32 [blocks], a few lookups at a time."""
    step = max(1, _LOOKUP_BYTES // (4 * width * weight.shape[1]))
    parts = []
    for first in range(0, expert.shape[0], step):
        of_part = expert[first : first + step]
        places = of_part[:, None] * width + torch.arange(width, dtype=torch.int32)
        matrices = F.embedding(places.reshape(-1), weight).reshape(-1, width, weight.shape[1])
        parts.append(tfl_operations().batch_matmul(rows[first : first + step], matrices, False, True))
    return torch.cat(parts) if len(parts) > 1 else parts[0]
