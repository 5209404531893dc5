"""Sizes that PyTorch infers with a quotient, as they are compared."""

import torch
from torch import SymInt, Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from autoconvert.ir.sizes import without_quotients


def taken(length: int = 19) -> Tensor:
    """[s, 4] of a symbolic s."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context: StatelessSymbolicContext[..., None] = StatelessSymbolicContext([DimDynamic.DYNAMIC, DimDynamic.STATIC])
    return mode.from_tensor(torch.zeros(length, 4), symbolic_context=context)


def divided(x: Tensor, dividend: int | SymInt, divisor: int | SymInt) -> Tensor:
    with x.fake_mode:  # type: ignore[attr-defined]
        return torch.empty(dividend // divisor, 4)


def test_a_quotient_without_a_remainder_goes() -> None:
    x = taken()
    s = x.shape[0]
    for dividend, divisor, expected in ((s * s, s, s), (32 * s, s, 32), (6 * s * s, 2 * s, 3 * s)):
        plain = without_quotients(divided(x, dividend, divisor))
        assert [str(size) for size in plain.shape] == [str(expected), "4"]
        assert plain.dtype == torch.float32


def test_any_other_quotient_stays() -> None:
    x = taken()
    s = x.shape[0]
    for dividend, divisor in ((s * s + 1, s), (s, 2), (s * s, 2 * s)):
        value = divided(x, dividend, divisor)
        assert without_quotients(value) is value


def test_sizes_and_several_results_are_told_alike() -> None:
    x = taken()
    s = x.shape[0]
    sizes = without_quotients((s * s // s, [divided(x, s * s, s)], 3, x))
    assert str(sizes[0]) == str(sizes[1][0].shape[0]) == str(s)
    assert sizes[2:] == (3, x)
