"""Marks of a loop over places that are only known at run time."""

import torch
from torch import Tensor


def visit(hit: Tensor, number: int, loop: int) -> Tensor:
    """Begins the iteration for place `number` of `hit` [places], taken only where the entry is not zero.

    The mark with the number of all places ends the loop, of which each has a number of its own. Gives true, so that an
    assertion keeps it.
    """
    return torch.ones((), dtype=torch.bool, device=hit.device)
