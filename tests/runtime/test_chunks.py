"""Chunks as the runtime makes them: padding, masks, positions, and which lengths it takes."""

import pytest
import torch

from autoconvert.ir.interface import Role
from autoconvert.ops.attention import CLOSED
from autoconvert.runtime.chunks import chunk, plan_prefill, split


def test_padding_is_token_zero_at_position_zero_with_a_closed_row() -> None:
    part = chunk([7, 8, 9], 4, 5, 10)
    assert part.inputs[Role.TOKENS].tolist() == [[7, 8, 9, 0, 0]]
    assert part.inputs[Role.INPUT_POS].tolist() == [4, 5, 6, 0, 0]
    assert (part.real, part.size) == (3, 5)
    assert (part.inputs[Role.MASK][0, 0, 3:] == CLOSED).all()


def test_dtypes_and_shapes_are_those_of_the_contract() -> None:
    part = chunk([1], 0, 3, 8)
    found = {role: (value.dtype, tuple(value.shape)) for role, value in part.inputs.items()}
    assert found == {
        Role.TOKENS: (torch.int64, (1, 3)),
        Role.INPUT_POS: (torch.int32, (3,)),
        Role.MASK: (torch.float32, (1, 1, 3, 8)),
    }


def test_a_row_sees_itself_and_everything_before() -> None:
    part = chunk([1, 1], 3, 2, 8)
    assert (part.inputs[Role.MASK][0, 0] == 0).tolist() == [[True] * 4 + [False] * 4, [True] * 5 + [False] * 3]


def test_split_holds_every_token_at_its_position() -> None:
    parts = split(range(5), ((2, 4), (1, 1), (2, 2)), 16)
    assert [token for part in parts for token in part.inputs[Role.TOKENS][0, : part.real].tolist()] == [0, 1, 2, 3, 4]
    assert [p for part in parts for p in part.inputs[Role.INPUT_POS][: part.real].tolist()] == [0, 1, 2, 3, 4]


def test_split_that_leaves_tokens_out_fails() -> None:
    with pytest.raises(AssertionError):
        split(range(5), ((2, 4),), 16)


@pytest.mark.parametrize(
    ("count", "lengths", "context", "expected"),
    [
        (640, (512, 128, 32), 1024, [(512, 512), (128, 128)]),
        (7, (4,), 16, [(4, 4), (3, 4)]),
        (4, (4,), 16, [(4, 4)]),
        (0, (4,), 16, []),
        (15, (4,), 15, [(4, 4), (4, 4), (4, 4), (1, 1), (1, 1), (1, 1)]),
        (7, (2, 4), 16, [(4, 4), (2, 2), (1, 2)]),
    ],
)
def test_lengths_fill_from_the_longest(
    count: int, lengths: tuple[int, ...], context: int, expected: list[tuple[int, int]]
) -> None:
    assert plan_prefill(count, lengths, context) == expected
    assert sum(real for real, _ in expected) == count
