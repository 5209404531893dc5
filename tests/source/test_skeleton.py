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
