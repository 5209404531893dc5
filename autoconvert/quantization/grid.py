"""Numbers that lie on a grid: those of a checkpoint that was quantized before, or was trained to be.

What is rounded once is not rounded again, where the second grid has the steps of the first.
"""

import numpy as np

from autoconvert.quantization.encoding import Numbers

# How far a number may lie from a multiple of the step, in steps of the finest grid that the largest number allows.
# bfloat16 and float16, in which such numbers are often kept, move those of four bits by less.
NEAR = 0.06
# What is looked at first: where none of a few groups lies on a grid, none is.
_FEW, _NUMBERS = 8, 32


def steps_of(groups: Numbers, most: int) -> Numbers | None:
    """The coarsest step of each group of which all its numbers are multiples, −`most` − 1 to `most` times.

    Groups are [rows, groups, numbers], steps [rows, groups], NaN where a group has none; None where none is found.
    """
    flat = groups.reshape(-1, groups.shape[2])
    few = flat[:: max(1, len(flat) // _FEW), :_NUMBERS]
    if np.isnan(_steps(few, most)).all():
        return None
    steps = _steps(flat, most)
    return None if np.isnan(steps).all() else steps.reshape(groups.shape[:2])


def _steps(groups: Numbers, most: int) -> Numbers:
    """Of [groups, numbers]."""
    largest = np.abs(groups).max(axis=1)
    steps = np.full(len(groups), np.nan, np.float32)
    left = np.flatnonzero((largest > 0) & np.isfinite(largest))
    # A few numbers rule out nearly all steps.
    sample = groups[:, :_NUMBERS]
    for count in range(1, most + 2):
        step = largest[left] / np.float32(count)
        likely = _lies_on(sample[left], step, count, most)
        likely[likely] = _lies_on(groups[left[likely]], step[likely], count, most)
        steps[left[likely]] = step[likely]
        left = left[~likely]
    return steps


def _lies_on(groups: Numbers, steps: Numbers, count: int, most: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    multiples = groups / steps[:, None]
    whole = np.rint(multiples)
    lies = np.abs(multiples - whole).max(axis=1, initial=0) <= NEAR * count / most
    on_grid: np.ndarray[tuple[int], np.dtype[np.bool_]] = lies & (whole.max(axis=1, initial=0) <= most)
    return on_grid
