"""A shift register over a chunk gives what its step gives one position after the other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import traced
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.scan.scan import Scan
from autoconvert.scan.shift_register import ShiftRegister, Window, shift_register

CHANNELS, LENGTH, CHUNK = 3, 4, 6

Step = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def pushed(state: Tensor, new: Tensor) -> tuple[Tensor, ...]:
    """Sees the state with the new entry behind it."""
    whole = torch.cat([state, new], -1)
    return whole, whole[..., 1:]


def rolled(state: Tensor, new: Tensor) -> tuple[Tensor, ...]:
    """Sees the state after it moved on, and before."""
    after = torch.cat([state[..., 1:], new], -1)
    return after, state, after


def backwards(state: Tensor, new: Tensor) -> tuple[Tensor, ...]:
    whole = torch.cat([new, state], -1)
    return whole, whole[..., :-1]


def decayed(state: Tensor, new: Tensor) -> tuple[Tensor, ...]:
    whole = torch.cat([state * 0.5, new], -1)
    return whole, whole[..., 1:]


def held(state: Tensor, new: Tensor) -> tuple[Tensor, ...]:
    whole = torch.cat([state, new], -1)
    return whole, whole[..., :-1]


def graph_of(step: Step) -> fx.GraphModule:
    with FakeTensorMode() as mode:
        values = {
            "state": mode.from_tensor(torch.zeros(1, CHANNELS, LENGTH)),
            "new": mode.from_tensor(torch.zeros(1, CHANNELS, 1)),
        }
    return canonicalize(traced(step, values))


def scan_of(step: Step) -> Scan:
    return Scan(graph_of(step), [(CHANNELS, LENGTH)], [1])


def test_what_a_step_sees_are_windows() -> None:
    assert shift_register(graph_of(pushed), [(CHANNELS, LENGTH)]) == ShiftRegister(-1, LENGTH, (Window(0, LENGTH + 1),))
    assert shift_register(graph_of(rolled), [(CHANNELS, LENGTH)]) == ShiftRegister(
        -1, LENGTH, (Window(1, LENGTH + 1), Window(0, LENGTH))
    )


@pytest.mark.parametrize("step", [backwards, decayed, held], ids=lambda step: step.__name__)
def test_anything_else_is_no_register(step: Step) -> None:
    assert shift_register(graph_of(step), [(CHANNELS, LENGTH)]) is None


@pytest.mark.parametrize("real", [1, 2, 5, CHUNK])
@pytest.mark.parametrize("step", [pushed, rolled], ids=lambda step: step.__name__)
def test_a_chunk_gives_what_single_steps_give_and_padding_changes_no_state(step: Step, real: int) -> None:
    state, new = torch.randn(1, CHANNELS, LENGTH), torch.randn(CHUNK, CHANNELS, 1)
    input_pos = torch.tensor([*range(7, 7 + real), *[0] * (CHUNK - real)], dtype=torch.int32)
    outputs, (after,) = scan_of(step).run(input_pos, [state], [new])
    for slot in range(real):
        *expected, state = step(state, new[slot : slot + 1])
        for output, value in zip(outputs, expected, strict=True):
            assert torch.equal(output[slot : slot + 1], value)
    assert torch.equal(after, state)
