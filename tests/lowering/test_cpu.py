"""What the CPU's runtime asks of a file."""

import pytest

from autoconvert.lowering.cpu import CPU


@pytest.mark.parametrize(("context", "slots"), [(1021, 1022), (251, 252), (4099, 4100), (2, 4), (1024, 1024), (9, 9)])
def test_a_cache_never_has_a_prime_number_of_slots(context: int, slots: int) -> None:
    assert CPU.capacity(context) == slots
