"""The history of a value: what attention looks back on."""

from torch import Tensor


def history(new: Tensor, slots: int) -> Tensor:
    """Stands for `new` [batch, heads, 1, width] of every position so far: [batch, heads, slots, width].

    Only the trace of a single step holds it, until the steps become a sequence again; a step alone does not know the
    others, so it gives its own value everywhere.
    """
    return new.expand(-1, -1, slots, -1).clone()
