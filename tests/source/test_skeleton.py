"""A module without values takes no memory, however large it is."""

import torch
from torch import nn

from autoconvert.source.skeleton import build_without_values, is_fake


class Stacked(nn.Module):
    """A parameter of a tebibyte, initialised as modules do, and a buffer that keeps its value."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.empty(256, 1 << 15, 1 << 15))
        nn.init.normal_(self.experts)
        self.register_buffer("scale", torch.arange(3.0))


def test_a_parameter_larger_than_the_memory_is_built() -> None:
    module = build_without_values(Stacked)
    assert is_fake(module.experts)
    assert module.experts.shape == (256, 1 << 15, 1 << 15)
    assert torch.equal(module.get_buffer("scale"), torch.arange(3.0))


class Moved(nn.Module):
    """A constructor that moves some of its modules to another dtype, or to the one that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(3, 5).to(torch.bfloat16)
        self.same = nn.Linear(3, 5).to(torch.float32)
        self.tied = nn.Linear(3, 5)
        self.tied.weight = self.same.weight
        self.tied.double()


def test_a_constructor_may_move_a_module_to_another_dtype() -> None:
    module = build_without_values(Moved)
    assert all(map(is_fake, module.parameters()))
    assert module.narrow.weight.dtype == torch.bfloat16
    assert module.tied.weight is module.same.weight
    assert module.tied.weight.dtype == torch.float64
    assert module.tied.weight.shape == (5, 3)
