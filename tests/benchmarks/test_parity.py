"""Comparing a file with its model: every position in every way, and faults that must be found."""

from collections.abc import Callable, Sequence

import pytest
import torch
from parity import TEXT_LENGTH, WAYS, compare, says_something
from torch import Tensor

VOCABULARY = 11
TOKENS = torch.randint(0, VOCABULARY, (TEXT_LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()


def weights() -> Tensor:
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1))


REFERENCE = weights()[TOKENS].cumsum(0)


class Summing:
    """The model whose logits are a sum over the tokens so far, with `padded` called after each prefill."""

    def __init__(self, padded: Callable[[Tensor, int], Tensor] = lambda state, count: state) -> None:
        self._padded = padded

    def reset(self) -> None:
        self._state = torch.zeros(VOCABULARY)

    def prefill(self, tokens: Sequence[int]) -> None:
        self._state = self._padded(self._state + weights()[list(tokens)].sum(0), len(tokens))

    def decode(self, token: int) -> Tensor:
        self._state = self._state + weights()[token]
        return self._state


def test_the_right_file_is_right() -> None:
    assert compare(Summing(), TOKENS, REFERENCE).is_right


@pytest.mark.parametrize("count", [1, 5, 16, 33])
def test_a_prefill_that_changes_the_state_is_found(count: int) -> None:
    spoils = Summing(lambda state, prefilled: state + 0.1 if prefilled == count else state)
    assert not compare(spoils, TOKENS, REFERENCE).is_right


def test_a_value_that_is_no_number_is_never_right() -> None:
    found = compare(Summing(lambda state, _: state * float("nan")), TOKENS, REFERENCE)
    assert not found.is_right
    assert found.worst == float("inf")


def test_every_way_goes_through_the_text_or_stops_within() -> None:
    assert all(sum(map(sum, way)) <= TEXT_LENGTH for way in WAYS)
    assert ((0, TEXT_LENGTH),) in WAYS


def test_logits_that_say_nothing_are_noticed() -> None:
    assert says_something(REFERENCE)
    assert not says_something(torch.zeros_like(REFERENCE))
    assert not says_something(REFERENCE * float("nan"))
