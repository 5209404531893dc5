"""Floating-point numbers of four bits: a sign, two of exponent, one of mantissa (E2M1 of the OCP MX specification)."""

import torch

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def unpack_e2m1(data: torch.Tensor) -> torch.Tensor:
    """The float32 numbers [..., 2 n] that bytes [..., n] hold, the low half of each byte first."""
    values = torch.tensor(VALUES)
    pairs = torch.stack([values.repeat(16), values.repeat_interleave(16)], dim=-1)
    return pairs[data.int()].reshape(*data.shape[:-1], -1)
