"""Attention over caches on the device, which writes a chunk into them by DYNAMIC_UPDATE_SLICE."""

from typing import Any

import torch
from torch import Tensor

from autoconvert.lowering.tfl_operations import tfl_operations
from autoconvert.ops.attention import attend, laid_out


def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    mask: Tensor,
    key_axis: int,
    value_axis: int,
    **attributes: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ops.cached_attention, with the one operation that becomes DYNAMIC_UPDATE_SLICE."""
    keys = write_slots(key, key_cache, input_pos, key_axis)
    values = write_slots(value, value_cache, input_pos, value_axis)
    layout = (key_axis, value_axis)
    attended = attend(
        query,
        keys,
        values,
        input_pos,
        mask,
        *layout,
        **attributes,
        times=_times,
        numbered=_counted,
    )
    return attended, keys, values


def write_slots(new: Tensor, cache: Tensor, input_pos: Tensor, axis: int) -> Tensor:
    """As ops.write_slots."""
    from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice

    start, zero = input_pos[0], torch.zeros((), dtype=torch.int32)
    written: Tensor = dynamic_update_slice(
        cache, laid_out(new, axis), [start if at == axis else zero for at in range(4)]
    )
    return written


def numbers_of_slots(mask: Tensor) -> Tensor:
    """As ops.numbers_of_slots."""
    return _counted(mask).reshape(-1)


def _counted(mask: Tensor) -> Tensor:
    """The numbers of the slots int32 [1, 1, 1, context], counted when run: how many there are may be open."""
    row = mask[:, :, :1]
    return (row == row).to(torch.int32).cumsum(-1, dtype=torch.int32) - 1


def _times(a: Tensor, b: Tensor, is_transposed: bool) -> Tensor:
    """BATCH_MATMUL reads an operand as it lies, also a transposed one, which `@` would copy at every step."""
    product: Tensor = tfl_operations().batch_matmul(a, b, False, is_transposed)
    return product
