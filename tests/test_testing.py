"""`check` finds what is wrong with a pattern alone, in a module, and in the runtime."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.errors import CheckFailed, InputError
from autoconvert.rewrite.pattern import Pattern, same
from autoconvert.testing import check
from tests.models import WIDTH, Decoder


def norm(x: Tensor, gain: Tensor, root: float) -> Tensor:
    return nn.functional.normalize(x, dim=-1) * root * gain


NORM = Pattern(
    "norm.of_length",
    "norm",
    norm,
    lambda x, gain, root: ops.rms_norm(x, gain, 1e-24),
    {"x": (1, 5, 14), "gain": (14,), "root": 14**0.5},
    lambda x, gain, root: None if abs(root**2 - x.shape[-1]) < 1e-4 else f"{root}² is not {x.shape[-1]}",
)


class Norm(nn.Module):
    def __init__(self, width: int, root: float) -> None:
        super().__init__()
        self.gain, self.root = nn.Parameter(torch.randn(width)), root

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.gain, self.root)


def _order(width: int) -> Tensor:
    return torch.arange(width).flip(0)


def _ordered(x: Tensor, table: Tensor) -> Tensor:
    return torch.index_select(x, -1, table).relu()


BACKWARDS = Pattern(
    "flip.by_table",
    "flip",
    _ordered,
    lambda x, table: x.flip(-1).relu(),
    {"x": (1, 5, 14), "table": _order(14)},
    lambda x, table: None if same(table, _order(x.shape[-1])) else "is another order",
)


class Ordered(nn.Module):
    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.order, Tensor)
        return x[..., self.order].relu()


def test_a_pattern_is_checked_in_a_block_and_in_the_runtime() -> None:
    assert check(NORM, nn.Sequential(Norm(32, 32**0.5), Norm(32, 32**0.5)), torch.randn(1, 7, 32), times=2) == 2


def test_a_pattern_is_checked_in_a_model_and_in_the_runtime() -> None:
    assert check(NORM, Decoder(lambda decoder, x: norm(x, decoder.gain, WIDTH**0.5)), times=1, context=16) == 1


def test_a_block_that_the_guard_declines_says_why() -> None:
    with pytest.raises(CheckFailed, match=r"norm\.of_length matched 0 times") as failure:
        check(NORM, Norm(32, 5.0), torch.randn(1, 7, 32))
    assert "5.0² is not 32" in failure.value.hint


def test_another_count_than_expected_fails() -> None:
    with pytest.raises(CheckFailed, match="matched 1 times, not 2"):
        check(NORM, Norm(32, 32**0.5), torch.randn(1, 7, 32), times=2)


def test_a_pattern_that_is_wrong_for_the_modules_numbers_is_found_in_place() -> None:
    # The sizes that are tried without a module do not reach it.
    careless = replace(NORM, guard=lambda x, **_: "not this one" if x.shape[-1] == 28 else None)
    with pytest.raises(CheckFailed, match="gives other numbers than what it replaces"):
        check(careless, Norm(32, 5.0), torch.randn(1, 7, 32))


def test_a_number_that_belongs_to_one_size_is_found_at_others() -> None:
    careless = replace(NORM, guard=lambda **_: None)
    with pytest.raises(InputError, match="other numbers than `matches` on sizes 2 times those of the example"):
        check(careless)


def heads(x: Tensor, gain: Tensor) -> Tensor:
    return torch.relu(x.reshape(1, 5, 7, 2)).flatten(-2) * gain


def test_sizes_written_as_numbers_are_found() -> None:
    pattern = Pattern("heads", "block", heads, lambda x, gain: torch.relu(x) * gain, {"x": (1, 5, 14), "gain": (14,)})
    with pytest.raises(InputError, match="`matches` cannot be run on sizes 2 times") as error:
        check(pattern)
    assert error.value.message.startswith(f"{__file__}:")
    assert "x.shape" in error.value.hint


def test_a_replacement_that_does_not_fit_where_it_matched_is_said_with_its_place() -> None:
    fixed = replace(NORM, guard=lambda **_: None, becomes=lambda x, gain, root: ops.rms_norm(x, gain[:14], 1e-24))
    with pytest.raises(InputError, match=r"`becomes` cannot be run (on sizes|where it matched)"):
        check(fixed, Norm(32, 32**0.5), torch.randn(1, 7, 32))


def test_a_guard_sees_the_numbers_of_a_modules_table() -> None:
    x = torch.randn(1, 7, 4)
    assert check(BACKWARDS, Ordered([3, 2, 1, 0]), x) == 1
    with pytest.raises(CheckFailed, match="matched 0 times") as failure:
        check(BACKWARDS, Ordered([3, 1, 2, 0]), x)
    assert "is another order" in failure.value.hint


def test_a_table_that_no_guard_asks_for_is_found_at_other_sizes_and_in_place() -> None:
    careless = replace(BACKWARDS, guard=lambda x, table: None)
    with pytest.raises(InputError, match="`becomes` gives other numbers than `matches` on sizes 2 times"):
        check(careless)
    at_one_size = replace(BACKWARDS, guard=lambda x, table: "too wide" if x.shape[-1] == 28 else None)
    assert check(at_one_size, Ordered([3, 2, 1, 0]), torch.randn(1, 7, 4)) == 1
    with pytest.raises(CheckFailed, match="gives other numbers than what it replaces"):
        check(at_one_size, Ordered([3, 1, 2, 0]), torch.randn(1, 7, 4))
