"""Rows of any table are looked up on the device as PyTorch does it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.lowering.on_device import lowered, operations, results, run

INDICES = torch.tensor([[3, 0, 3, 1]])

TABLES: dict[str, Tensor] = {
    "numbers": torch.arange(15.0).view(5, 3),
    "whole numbers": torch.arange(15, dtype=torch.int32).view(5, 3),
    "one whole number a row": torch.tensor([[7], [0], [2**31 - 1], [-5], [1]], dtype=torch.int32),
    "truth": torch.tensor([[True], [False], [False], [True]]),
}


PAIRS = (torch.arange(4)[:, None] - torch.arange(3)).clamp(0, 3)[None]


@pytest.mark.parametrize("indices", [INDICES, PAIRS], ids=["tokens", "pairs"])
@pytest.mark.parametrize("name", TABLES)
def test_the_device_gives_what_pytorch_gives(name: str, indices: Tensor) -> None:
    def look_up(indices: Tensor) -> Tensor:
        return F.embedding(indices, TABLES[name])

    for actual, expected in zip(run(lowered(look_up, indices), indices), results(look_up, indices), strict=True):
        assert torch.equal(actual, expected)


def test_a_small_table_is_gathered_for_pairs() -> None:
    found = operations(lowered(lambda indices: F.embedding(indices, TABLES["numbers"]), PAIRS))
    assert found["GATHER_ND"] + found["GATHER"] == 1 and not found["EMBEDDING_LOOKUP"]


def test_a_table_of_numbers_is_looked_up_by_the_operation_that_widens_quantized_rows() -> None:
    found = operations(lowered(lambda indices: F.embedding(indices, TABLES["numbers"]), INDICES))
    assert found["EMBEDDING_LOOKUP"] == 1
