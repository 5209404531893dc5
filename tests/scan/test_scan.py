"""A scan runs its step along a sequence, in chunks as well as at once."""

import pytest
import torch
from torch import Tensor, fx, nn

from autoconvert.scan.scan import Scan, StatefulScan

HEADS, WIDTH, LENGTH = 2, 3, 7


class Decay(nn.Module):
    """A decaying sum per head, as rows [heads, width]; a scale is the same for all positions."""

    def forward(self, state: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        after = state * 0.5 + x.reshape(1, HEADS, WIDTH) * scale
        return (after * 2).reshape(HEADS, WIDTH), after


def decay() -> Scan:
    return Scan(fx.symbolic_trace(Decay()), [(HEADS, WIDTH)], [HEADS, 0])


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(LENGTH * HEADS, WIDTH, generator=generator), torch.randn(WIDTH, generator=generator)


def test_runs_one_step_after_the_other_from_zero() -> None:
    x, scale = inputs()
    state, expected = torch.zeros(HEADS, WIDTH), []
    for row in x.reshape(LENGTH, HEADS, WIDTH):
        state = state * 0.5 + row * scale
        expected.append(state * 2)
    (result,) = decay()(x, scale)
    torch.testing.assert_close(result, torch.cat(expected))


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 1, 3], [2, 5]])
def test_chunks_give_what_one_run_gives(sizes: list[int]) -> None:
    x, scale = inputs()
    carried, state, parts, start = StatefulScan(decay()), torch.zeros(1, HEADS, WIDTH), [], 0
    for size in sizes:
        positions = torch.arange(start, start + size, dtype=torch.int32)
        part, state = carried(positions, state, x[start * HEADS : (start + size) * HEADS], scale)
        parts.append(part)
        start += size
    torch.testing.assert_close(torch.cat(parts), decay()(x, scale)[0])


def test_padding_changes_no_state() -> None:
    x, scale = inputs()
    carried, empty = StatefulScan(decay()), torch.zeros(1, HEADS, WIDTH)
    _, exact = carried(torch.arange(3, dtype=torch.int32), empty, x[: 3 * HEADS], scale)
    padded = torch.tensor([0, 1, 2, 0, 0], dtype=torch.int32)
    _, state = carried(padded, empty, x[: 5 * HEADS], scale)
    assert torch.equal(state, exact)
