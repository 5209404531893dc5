"""Sizes are text in named symbols, and become numbers."""

import pytest

from autoconvert.ir.interface import Size, in_numbers, symbols_in


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (7, 7),
        ("length", 6),
        ("2*length + source", 16),
        ("(length//4)", 1),
        ("Max(1, length - 9)", 1),
        ("Mod(length, 4)", 2),
        # What sympy has names of its own for.
        ("S + N", 14),
    ],
)
def test_a_size_in_symbols_is_a_number_at_their_values(size: Size, number: int) -> None:
    assert in_numbers((size,), {"length": 6, "source": 4, "S": 5, "N": 9}) == (number,)


def test_functions_are_no_symbols() -> None:
    assert symbols_in(("Max(1, length)", 3, "source")) == {"length", "source"}
