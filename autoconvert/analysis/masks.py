"""Masks: what a table of who sees whom, and of what is added to the scores, turns out to be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoconvert.ops.attention import CLOSED_BIAS, HIDES, near

# Sums of a few float32 numbers, as the model wrote them or reordered.
_ROUNDING = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class Mask:
    """A causal mask with what else it does to the score of query i and key j.

    `window` and `chunk_size` hide as ops.attention has it, 0 where they do not. `slopes` [heads or 1] stands for
    slope · (j − i) (ALiBi: Press et al., 2022), `distances` [heads or 1, length] for a number for each distance i − j
    (T5: Raffel et al., 2020), and `table` [heads or 1, length, length] for any other numbers; the last two also hide.
    """

    window: int = 0
    chunk_size: int = 0
    slopes: Tensor | None = None
    distances: Tensor | None = None
    table: Tensor | None = None


def classify_mask(table: Tensor, relative: bool = True) -> Mask | str:
    """Names a mask [..., length, length], bool (True attends) or additive; or says why it is none.

    With `relative` only differences within a row count: a softmax does not change when the same number is added to
    all its scores. Where a sink joins it, it does.
    """
    scores = _added(table)
    visible, bias = scores > HIDES, _bias(scores, relative)
    if bool(visible.triu(1).any()):
        return "not causal: a position sees later ones"
    if not bool(visible.any(-1).all()):
        return "closed: a position sees none, not even itself"
    near_enough = windows(visible[0]) if bool((visible == visible[:1]).all()) else None
    size = float(scores[visible].abs().max())
    if near_enough is None:
        hidden = torch.where(visible, bias, CLOSED_BIAS)
        return _numbers(Mask(), hidden, torch.ones_like(visible).tril(), size)
    slopes = _slopes(bias, visible, size)
    if slopes is None:
        return _numbers(Mask(*near_enough), bias, visible, size)
    return Mask(*near_enough, slopes=slopes if bool(slopes.any()) else None)


def joined(masks: Sequence[Mask | str]) -> Mask | str:
    """The mask of several heads, from that of each; or why there is none."""
    known = [mask for mask in masks if isinstance(mask, Mask)]
    if len(known) < len(masks):
        return next(mask for mask in masks if isinstance(mask, str))
    first = known[0]
    tables = [mask.table for mask in known if mask.table is not None]
    if tables or any((mask.window, mask.chunk_size) != (first.window, first.chunk_size) for mask in known):
        return "another for each head, by no rule"
    if all(mask.distances is None for mask in known):
        slopes = torch.cat([torch.zeros(1) if mask.slopes is None else mask.slopes for mask in known])
        return replace(first, slopes=slopes if bool(slopes.any()) else None)
    length = max(len(mask.distances[0]) for mask in known if mask.distances is not None)
    return replace(first, slopes=None, distances=torch.cat([_by_distance(mask, length) for mask in known]))


def _by_distance(mask: Mask, length: int) -> Tensor:
    """What a mask of one head adds at each distance, [1, length]."""
    if mask.distances is not None:
        return mask.distances
    return -torch.arange(length) * (torch.zeros(1) if mask.slopes is None else mask.slopes)[:, None]


def same_mask(table: Tensor, shorter: Tensor, relative: bool = True) -> bool:
    """Whether the leading part of a mask means what the mask of a shorter sequence does."""
    whole, part = _added(table), _added(shorter)
    length = part.shape[-1]
    whole = whole[:, :length, :length]
    if whole.shape != part.shape or not torch.equal(whole > HIDES, part > HIDES):
        return False
    size = max(float(scores[scores > HIDES].abs().max()) for scores in (whole, part))
    return bool(((_bias(whole, relative) - _bias(part, relative)).abs() <= _ROUNDING * size).all())


def _added(table: Tensor) -> Tensor:
    """[heads or 1, length, length] to add to scores."""
    length = table.shape[-1]
    if table.dtype == torch.bool:
        table = torch.where(table, 0.0, -torch.inf)
    return table.reshape(-1, table.shape[-2] if table.ndim > 1 else 1, length).expand(-1, length, -1)


def _bias(scores: Tensor, relative: bool) -> Tensor:
    """What is added where nothing is hidden, 0 elsewhere; relative to what a position adds to its own score."""
    visible = scores > HIDES
    own = scores.diagonal(dim1=-2, dim2=-1)
    if relative and bool((own > HIDES).all()):
        scores = scores - own[..., None]
    return torch.where(visible, scores, 0.0)


def _rows(visible: Tensor) -> Tensor:
    return torch.arange(visible.shape[-1])[:, None]


def windows(visible: Tensor) -> tuple[int, int] | None:
    """The window and the chunk size, 0 for none, that hide what `visible` [length, length] does not show."""
    length = visible.shape[-1]
    seen = visible.sum(-1)
    alone = (seen[1:] == 1).nonzero() + 1
    chunk_size = int(alone[0]) if len(alone) else 0
    causal = torch.ones_like(visible).tril()
    for size in (0, chunk_size):
        for window in (0, int(seen.max())):
            if torch.equal(visible, causal & near(_rows(visible), length, window, size)):
                return window, size
    return None


def _numbers(mask: Mask, bias: Tensor, counts: Tensor, size: float) -> Mask:
    """The mask with a number for each distance, where `bias` is one for all that counts; with a table elsewhere."""
    # The last row looks back on every distance.
    distances = bias[:, -1].flip(-1)
    distance = (_rows(bias) - _rows(bias).T).clamp(min=0)
    is_one = ((distances[:, distance] - bias).abs() <= _ROUNDING * size) | ~counts
    return replace(mask, distances=distances) if bool(is_one.all()) else replace(mask, table=bias)


def _slopes(bias: Tensor, visible: Tensor, size: float) -> Tensor | None:
    """The slope [heads or 1] by which `bias` falls with the distance; None where it does not fall evenly."""
    distance = _rows(bias) - _rows(bias).T
    farthest = torch.where(visible[0], distance, 0).argmax()
    row, column = divmod(int(farthest), bias.shape[-1])
    slopes = -bias[:, row, column] / max(1, row - column)
    straight = torch.where(visible, -distance * slopes[:, None, None], 0.0)
    return slopes if bool(((straight - bias).abs() <= _ROUNDING * size).all()) else None
