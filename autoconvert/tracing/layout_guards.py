"""Tracing without guards that only decide how results lie in memory.

PyTorch compares sizes to find strides: whether a part of a text is contiguous, which of two axes comes first. Where it
could not do without a guard, a trace would hold for some lengths only, though the numbers are the same for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

# torch 2.13; the test next to this file's says whether another version still has the switch.
from torch.fx.experimental import _config


@contextmanager
def without_layout_guards() -> Iterator[None]:
    """Sizes with an example are taken as such without one: what is not known of them at every length is not asked."""
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield
