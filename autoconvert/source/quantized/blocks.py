"""Numbers that share a scale in blocks: a tensor is cut along every axis, and each block has one scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autoconvert.source.quantized.decoding import Parts

Block = tuple[int, ...]


def block_of(shape: Sequence[int], grid: Sequence[int], asked: Sequence[int] = ()) -> Block | None:
    """The size of the blocks of a tensor of `shape` whose scales have the shape `grid`; None if they fit none.

    `asked` is the size along the last axes that a configuration names; the last blocks may then be cut off. Without
    it, or where it fits not, blocks divide the tensor evenly. One scale is for all, one for each row for its row.
    """
    if math.prod(grid) == 1:
        return tuple(shape)
    if len(grid) == 1 and grid[0] == shape[0]:
        return (1, *shape[1:])
    if len(grid) != len(shape) or 0 in grid:
        return None
    named = (1,) * (len(shape) - len(asked)) + tuple(asked)
    if (
        asked
        and len(named) == len(shape)
        and tuple(-(-size // each) for size, each in zip(shape, named, strict=True)) == tuple(grid)
    ):
        return named
    if any(size % count for size, count in zip(shape, grid, strict=True)):
        return None
    return tuple(size // count for size, count in zip(shape, grid, strict=True))


def described(shape: Sequence[int], block: Block) -> str:
    """How blocks of this size are told in a summary."""
    if block == tuple(shape):
        return "with one scale each"
    if block[1:] == tuple(shape[1:]) and block[0] == 1:
        return "with a scale for each row"
    if math.prod(block[:-1]) == 1:
        return f"in groups of {block[-1]}"
    return f"in blocks of {' × '.join(map(str, block[-2:]))}"


def exponents(scales: torch.Tensor) -> torch.Tensor:
    """Scales in float32, exactly. Bytes are exponents of two with a bias of 127: E8M0 of the OCP MX specification."""
    if scales.dtype == torch.uint8:
        return torch.ldexp(torch.ones(scales.shape), scales.int() - 127)
    return scales.float()


def spread(parts: Parts, part: str, shape: Sequence[int], block: Block, start: int, stop: int) -> torch.Tensor:
    """The numbers of `part`, one for each block, so that they broadcast to rows `start:stop` of a tensor of `shape`."""
    rank = len(shape)
    if math.prod(parts.shape(part)) == 1:
        return parts.whole(part).reshape((1,) * rank)
    first, last = start // block[0], -(-stop // block[0])
    numbers = parts.rows(part, first, last)
    numbers = numbers.reshape(last - first, *(numbers.shape[1:] or (1,) * (rank - 1)))
    if block[0] > 1 and last - first > 1:
        numbers = numbers.repeat_interleave(block[0], 0)[start - first * block[0] : stop - first * block[0]]
    for axis in range(1, rank):
        if numbers.shape[axis] not in (1, shape[axis]):
            numbers = numbers.repeat_interleave(block[axis], axis).narrow(axis, 0, shape[axis])
    return numbers


@dataclass(frozen=True)
class BlockScaled:
    """`weight` as it is stored, less its block's `zero_point` where there is one, times its block's `scale`."""

    shape: tuple[int, ...]
    block: Block

    def rows(self, parts: Parts, start: int, stop: int) -> torch.Tensor:
        values = parts.rows("weight", start, stop).float()
        if "zero_point" in parts:
            values = values - spread(parts, "zero_point", self.shape, self.block, start, stop).float()
        return values * exponents(spread(parts, "scale", self.shape, self.block, start, stop))
