"""Rotary position embedding: halves or neighbours in pairs, with tables of the whole width or of half of it.

In GPT-NeoX and Llama axis i is paired with i + width/2, in GPT-J with its neighbour; DeepSeek-V3 reads neighbours
and writes halves.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.rewrite.pattern import Example, Pattern

_WIDTH = 14


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., ::2], x[..., 1::2]


def _interleave(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), dim=-1).flatten(-2)


def _twice(table: Tensor) -> Tensor:
    return torch.cat((table, table), dim=-1)


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(x)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _rotate_half_backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(x)
    return x * cos + torch.cat((second, -first), dim=-1) * sin


def _rotate_every_two(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _neighbours(x)
    return x * cos + _interleave(-second, first) * sin


def _halves_to_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _neighbours_to_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _neighbours(x)
    return _interleave(first * cos - second * sin, second * cos + first * sin)


def _neighbours_to_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _neighbours(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _rolled(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + torch.roll(x, x.shape[-1] // 2, dims=-1) * sin


def _rolled_and_signed(x: Tensor, cos: Tensor, signs: Tensor, sin: Tensor) -> Tensor:
    return x * cos + torch.roll(x, x.shape[-1] // 2, dims=-1) * signs * sin


def _unsigned(sin: Tensor) -> Tensor:
    """The table of `ops.rotary`, which turns the sign of the second half itself."""
    first, second = _halves(sin)
    return torch.cat((-first, second), dim=-1)


def _whole_tables(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    return _widths(x, cos, sin, x.shape[-1])


def _half_tables(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    return _widths(x, cos, sin, x.shape[-1] // 2)


def _signed_tables(x: Tensor, cos: Tensor, signs: Tensor, sin: Tensor) -> str | None:
    return _widths(x, cos, sin, x.shape[-1]) or _widths(x, cos, signs, x.shape[-1])


def _widths(x: Tensor, cos: Tensor, sin: Tensor, expected: int) -> str | None:
    if cos.shape[-1] == sin.shape[-1] == expected and x.shape[-1] % 2 == 0:
        return None
    return f"cos and sin have width {cos.shape[-1]} and {sin.shape[-1]}, x has {x.shape[-1]}"


def _example(width: int) -> Example:
    return {"x": (1, 3, 5, _WIDTH), "cos": (width,), "sin": (width,)}


def _whole(name: str, matches: Callable[..., Tensor], becomes: Callable[..., Tensor]) -> Pattern:
    return Pattern(name, "rotary", matches, becomes, _example(_WIDTH), _whole_tables)


def _half(name: str, matches: Callable[..., Tensor], becomes: Callable[..., Tensor]) -> Pattern:
    return Pattern(name, "rotary", matches, becomes, _example(_WIDTH // 2), _half_tables)


PATTERNS = (
    _whole("rotary.half", _rotate_half, lambda x, cos, sin: ops.rotary(x, cos, sin)),
    _whole("rotary.half.backwards", _rotate_half_backwards, lambda x, cos, sin: ops.rotary(x, cos, -sin)),
    _whole("rotary.interleaved", _rotate_every_two, lambda x, cos, sin: ops.rotary(x, cos, sin, True)),
    _whole("rotary.rolled", _rolled, lambda x, cos, sin: ops.rotary(x, cos, _unsigned(sin))),
    Pattern(
        "rotary.rolled.signs",
        "rotary",
        _rolled_and_signed,
        lambda x, cos, signs, sin: ops.rotary(x, cos, _unsigned(signs * sin)),
        {**_example(_WIDTH), "signs": (_WIDTH,)},
        _signed_tables,
    ),
    _half("rotary.half.halves", _halves_to_halves, lambda x, cos, sin: ops.rotary(x, _twice(cos), _twice(sin))),
    _half(
        "rotary.interleaved.halves",
        _neighbours_to_neighbours,
        lambda x, cos, sin: ops.rotary(x, _interleave(cos, cos), _interleave(sin, sin), True),
    ),
    _half(
        "rotary.interleaved_to_half",
        _neighbours_to_halves,
        lambda x, cos, sin: ops.rotary(
            x.unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2), _twice(cos), _twice(sin)
        ),
    ),
)
