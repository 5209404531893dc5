"""Experts on the device: the same numbers for any choice, one token reads its own experts, lookups stay small."""

import pytest
import torch
from torch import Tensor

from autoconvert.lowering.bodies import experts as lowering
from autoconvert.lowering.bodies.experts import block_size, expert_linear, into_blocks
from autoconvert.ops.experts import expert_linear as reference
from tests.lowering.on_device import lowered, operations, run

EXPERTS, WIDTH, COLUMNS = 5, 7, 6

CHOICES = {
    "one token": torch.tensor([3, 0]),
    "counted from the last": torch.tensor([-1, -5]),
    "many tokens": torch.randint(0, EXPERTS, (64,), generator=torch.Generator().manual_seed(0)),
    "all alike": torch.full((64,), 2),
    "in turn": torch.arange(64) % EXPERTS,
    "one apart": torch.cat((torch.full((63,), 4), torch.tensor([1]))),
}


def operands(expert: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(expert), COLUMNS, generator=generator)
    return x, torch.randn(EXPERTS * WIDTH, COLUMNS, generator=generator), expert


def device(x: Tensor, weight: Tensor, expert: Tensor) -> Tensor:
    return expert_linear(x, weight, expert, WIDTH)


@pytest.mark.parametrize("name", CHOICES)
def test_the_device_gives_the_chosen_experts_product(name: str) -> None:
    x, weight, expert = operands(CHOICES[name])
    (actual,) = run(lowered(device, x, weight, expert), x, weight, expert)
    torch.testing.assert_close(actual, reference(x, weight, expert, WIDTH), rtol=1e-5, atol=1e-5)


def test_one_token_looks_up_its_own_experts_and_many_share_lookups() -> None:
    def looked_up(expert: Tensor) -> int:
        model = lowered(device, *operands(expert))
        return operations(model)["EMBEDDING_LOOKUP"]

    assert looked_up(CHOICES["one token"]) == 1
    # Matrices, rows into blocks, and rows back.
    assert looked_up(CHOICES["many tokens"]) == 3


def test_no_lookup_writes_more_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "_LOOKUP_BYTES", 4 * WIDTH * COLUMNS)
    x, weight, expert = operands(CHOICES["one token"])
    content = lowered(device, x, weight, expert)
    assert operations(content)["EMBEDDING_LOOKUP"] == 2
    torch.testing.assert_close(run(content, x, weight, expert)[0], reference(x, weight, expert, WIDTH))


def test_few_pairs_are_not_sorted_and_many_are() -> None:
    assert block_size(8, 128) == 1
    assert block_size(2, 8) == 1
    assert block_size(1024, 128) > 1


@pytest.mark.parametrize("block", [2, 8, 64])
@pytest.mark.parametrize("name", CHOICES)
def test_every_pair_has_a_slot_of_its_own_in_a_block_of_its_expert(name: str, block: int) -> None:
    expert = (CHOICES[name] % EXPERTS).to(torch.int32)
    blocks = into_blocks(expert, EXPERTS, block)
    assert len(set(blocks.slot.tolist())) == len(expert)
    assert blocks.expert[blocks.slot // block].tolist() == expert.tolist()
    assert blocks.pair[blocks.slot].tolist() == list(range(len(expert)))
