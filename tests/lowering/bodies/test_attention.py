"""Attention on the device takes caches in every layout that a target may choose."""

from functools import partial

import pytest
import torch
from torch import Tensor

from autoconvert import ops
from autoconvert.ops.attention import CLOSED, laid_out
from tests.lowering.on_device import lowered, run

CHUNK, CONTEXT, WIDTH, START = 3, 8, 4, 2


def attention(*tensors: Tensor, key_axis: int, value_axis: int) -> tuple[Tensor, Tensor, Tensor]:
    results: tuple[Tensor, Tensor, Tensor] = ops.cached_attention(*tensors, key_axis, value_axis, 0.5, 0)
    return results


@pytest.mark.parametrize("key_axis", [2, 3])
@pytest.mark.parametrize("value_axis", [2, 3])
def test_a_layout_changes_nothing_but_how_caches_lie(key_axis: int, value_axis: int) -> None:
    random = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    query, key, value = random(1, 4, CHUNK, WIDTH), random(1, 2, CHUNK, WIDTH), random(1, 2, CHUNK, WIDTH)
    keys, values = (random(1, 2, CONTEXT, WIDTH) for _ in range(2))
    input_pos = torch.arange(START, START + CHUNK, dtype=torch.int32)
    mask = torch.where(torch.arange(CONTEXT) <= input_pos[:, None], 0.0, CLOSED)[None, None]
    expected, *caches = attention(query, key, value, keys, values, input_pos, mask, key_axis=2, value_axis=2)
    axes = (key_axis, value_axis)
    given = [laid_out(cache, axis) for cache, axis in zip((keys, values), axes, strict=True)]
    tensors = [tensor.contiguous() for tensor in (query, key, value, *given, input_pos, mask)]
    function = partial(attention, key_axis=key_axis, value_axis=value_axis)
    wanted = (expected, *(laid_out(cache, axis) for cache, axis in zip(caches, axes, strict=True)))
    for found in (function(*tensors), run(lowered(function, *tensors), *tensors)):
        torch.testing.assert_close(tuple(found), wanted)
