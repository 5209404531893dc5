"""The CPU: what LiteRT-LM expects of a file that it runs there, as litert-lm 0.18 and litert-torch 0.10 have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from autoconvert import ops
from autoconvert.ir.interface import Role, Size
from autoconvert.ir.model import Signature
from autoconvert.ir.program import LENGTH
from autoconvert.ir.state import State, Write
from autoconvert.lowering import lookup, sorting
from autoconvert.lowering.experts import expert_linear
from autoconvert.lowering.tfl_operations import tfl_operations
from autoconvert.ops.attention import attend, laid_out
from autoconvert.ops.semantic import Body


@dataclass(frozen=True)
class _Cpu:
    """As ir.target.Target."""

    section: str = "PREFILL_DECODE"

    @property
    def port_names(self) -> Mapping[Role, str]:
        return {
            Role.TOKENS: "tokens",
            Role.INPUT_POS: "input_pos",
            Role.MASK: "mask",
            Role.LOGITS: "logits",
        }

    @property
    def state_types(self) -> Mapping[str, str]:
        return {
            "key": "TYPE_GLOBAL_KEY_CACHE",
            "value": "TYPE_GLOBAL_VALUE_CACHE",
            "recurrent": "TYPE_LINEAR_ATTENTION",
        }

    @property
    def bodies(self) -> Mapping[OpOverload, Body]:
        return {
            **ops.BODIES,
            ops.cached_attention: _cached_attention,
            ops.rotary: _rotary,
            ops.expert_linear: expert_linear,
            torch.ops.aten.embedding.default: lookup.embedding,
            torch.ops.aten.topk.default: sorting.topk,
            torch.ops.aten.sort.default: sorting.sort,
            torch.ops.aten.sort.stable: sorting.stable_sort,
            torch.ops.aten.argsort.default: sorting.argsort,
        }

    def key_cache(self, index: int, groups: int, capacity: int, width: int) -> State:
        return State(f"kv_cache_k_{index}", "key", (1, groups, capacity, width), Write.APPEND, sequence_axis=2)

    def value_cache(self, index: int, groups: int, capacity: int, width: int) -> State:
        """Transposed, so that the product with it reads rows."""
        return State(f"kv_cache_v_{index}", "value", (1, groups, width, capacity), Write.APPEND, sequence_axis=3)

    def scan_state(self, index: int, shape: Sequence[int], *, is_window: bool) -> State:
        """The runtime's letters: c for the last inputs of a convolution, r for any other state."""
        return State(f"kv_cache_{'c' if is_window else 'r'}_{index}", "recurrent", (1, *shape), Write.REPLACE)

    def fixed_state(self, index: int, shape: Sequence[Size], dtype: torch.dtype) -> State:
        return State(f"fixed_{index}", "constant", tuple(shape), Write.FIXED, dtype=dtype)

    def text_signatures(self, program: str, lengths: Sequence[int]) -> tuple[Signature, ...]:
        """`prefill_N` fills the states and gives no logits; `decode` takes one token and gives those that follow it."""
        chunks = (Signature(f"prefill_{n}", program, {LENGTH: n}, frozenset({Role.LOGITS})) for n in lengths)
        return (*chunks, Signature("decode", program, {LENGTH: 1}))


def _cached_attention(
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
    from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice

    start, zero = input_pos[0], torch.zeros((), dtype=torch.int32)
    keys, values = (
        dynamic_update_slice(cache, laid_out(chunk, axis), [start if at == axis else zero for at in range(4)])
        for cache, chunk, axis in ((key_cache, key, key_axis), (value_cache, value, value_axis))
    )
    layout = (key_axis, value_axis)
    attended = attend(query, keys, values, input_pos, mask, *layout, **attributes, times_transposed=_times_transposed)
    return attended, keys, values


def _times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """BATCH_MATMUL reads a transposed operand as it lies; written as `@` it would be copied at every step."""
    product: Tensor = tfl_operations().batch_matmul(a, b, False, True)
    return product


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """As ops.rotary, with the sign moved into the sine, which all layers share, and slices of neighbouring entries."""
    half = x.shape[-1] // 2
    signs = torch.cat((-torch.ones(half), torch.ones(half)))
    if not interleaved:
        return x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * (sin * signs)
    pairs = torch.unflatten(x, -1, (half, 2))
    exchanged = torch.cat((pairs[..., 1:], pairs[..., :1]), dim=-1).flatten(-2)
    return x * cos + exchanged * (sin * signs.view(2, half).t().flatten())


CPU = _Cpu()
