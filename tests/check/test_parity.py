"""What rounding explains: a fixed share, what the model rounded in the same way says, and how far that drifts."""

import torch
from torch import Tensor

from autoconvert.check.parity import OF_ROUNDING, unexplained

ALLOWED = 0.25
MODEL = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
MODEL = MODEL / MODEL.std(-1, keepdim=True)


def off(by: float, seed: int = 1) -> Tensor:
    """Logits that are so far from the model's, root mean square in σ, at each position."""
    noise = torch.randn(MODEL.shape, generator=torch.Generator().manual_seed(seed))
    return MODEL + by * noise / noise.square().mean(-1, keepdim=True).sqrt()


def near_rounded(by: float, seed: int = 9) -> Tensor:
    """The same from the logits of the model when it is rounded, which are off by 1 σ, and in their own σ."""
    rounded = off(1.0)
    return rounded + (off(by, seed) - MODEL) * rounded.std(-1, keepdim=True)


def passes(logits: Tensor, drift: float) -> bool:
    """Beside a rounded model that is another by `drift` with other last bits."""
    _, beyond = unexplained(logits, MODEL, ALLOWED, lambda seed: near_rounded(drift, seed) if seed else off(1.0))
    return bool((beyond <= ALLOWED).all())


def test_a_small_change_needs_no_explanation() -> None:
    change, beyond = unexplained(off(0.2), MODEL, ALLOWED, None)
    assert torch.equal(change, beyond) and bool((beyond <= ALLOWED).all())
    assert not bool((unexplained(off(0.3), MODEL, ALLOWED, None)[1] <= ALLOWED).any())


def test_a_large_change_is_explained_by_the_model_rounded_in_the_same_way() -> None:
    assert passes(near_rounded(0.2), drift=0.0)
    assert not passes(near_rounded(0.3), drift=0.0)


def test_a_model_that_drifts_when_it_is_rounded_explains_as_much() -> None:
    assert passes(near_rounded(0.3), drift=0.1)
    assert not passes(near_rounded(0.3), drift=0.01)
    assert not passes(near_rounded(ALLOWED + 0.1 * OF_ROUNDING + 0.1), drift=0.1)


def test_numbers_that_are_none_explain_nothing() -> None:
    assert not passes(near_rounded(0.3), drift=float("nan"))
    assert not passes(near_rounded(float("nan")), drift=0.1)
