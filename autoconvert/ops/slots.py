"""Slots: what every position of a text gives, one place for each position up to the context, and their numbers."""

import torch
from torch import Tensor

from autoconvert.ops.attention import laid_out


def slots(new: Tensor, context: int) -> Tensor:
    """`new` [1, groups, sequence, width] of a whole text in the slots of its positions: [1, groups, context, width].

    Slots behind the text hold 0, as a cache does that nobody has written.
    """
    kept = slots_shape(new, context).zero_()
    kept[:, :, : new.shape[2]] = new
    return kept


def slots_shape(new: Tensor, context: int) -> Tensor:
    """A value of the shape that slots gives."""
    return new.new_empty((1, new.shape[1], context, new.shape[3]))


def write_slots(new: Tensor, cache: Tensor, input_pos: Tensor, axis: int) -> Tensor:
    """The `cache` with a chunk `new` [1, groups, chunk, width] written in from slot `input_pos`[0] on.

    The cache has the context as its `axis`, 2 or 3, and the width as the other.
    """
    places = input_pos[0] + torch.arange(new.shape[2], device=new.device)
    return cache.index_copy(axis, places, laid_out(new, axis))


def slot_numbers(context: int) -> Tensor:
    """The numbers of all slots, int32 [context]."""
    return torch.arange(context, dtype=torch.int32)


def numbers_of_slots(mask: Tensor) -> Tensor:
    """The numbers of the slots that a `mask` [1, 1, chunk, context] is for, int32 [context]."""
    return torch.arange(mask.shape[-1], dtype=torch.int32, device=mask.device)
