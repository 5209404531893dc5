"""The CPU: what LiteRT-LM expects of a file that it runs there, as litert-lm 0.18 and litert-torch 0.10 have it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch._ops import OpOverload

from autoconvert import ops
from autoconvert.ir.interface import Role, Size
from autoconvert.ir.model import Signature
from autoconvert.ir.program import HISTORY, LENGTH
from autoconvert.ir.state import State, Write
from autoconvert.lowering.bodies import attention, division, experts, lookup, rotary, sorting
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
            ops.cached_attention: attention.cached_attention,
            ops.write_slots: attention.write_slots,
            ops.numbers_of_slots: attention.numbers_of_slots,
            ops.rotary: rotary.rotary,
            ops.expert_linear: experts.expert_linear,
            torch.ops.aten.embedding.default: lookup.embedding,
            torch.ops.aten.div.Tensor_mode: division.div,
            torch.ops.aten.topk.default: sorting.topk,
            torch.ops.aten.sort.default: sorting.sort,
            torch.ops.aten.sort.stable: sorting.stable_sort,
            torch.ops.aten.argsort.default: sorting.argsort,
        }

    @property
    def why_fixed(self) -> Mapping[OpOverload, str]:
        """Operations whose bodies are others at another number of rows, and how: an open length cannot be lowered."""
        return {ops.expert_linear: "the experts of a chunk are looked up in blocks that suit its length"}

    def capacity(self, context: int) -> int:
        """Never a prime number: the engine takes a mask as long as one for a placeholder and corrupts its heap."""
        return next(count for count in itertools.count(context) if not _is_prime(count))

    def key_cache(self, index: int, groups: int, capacity: int, width: int) -> State:
        return State(f"kv_cache_k_{index}", "key", (1, groups, capacity, width), Write.APPEND, sequence_axis=2)

    def value_cache(self, index: int, groups: int, capacity: int, width: int) -> State:
        """In rows, as keys lie: the runtime takes them transposed too, and multiplies those slower."""
        return State(f"kv_cache_v_{index}", "value", (1, groups, capacity, width), Write.APPEND, sequence_axis=2)

    def scan_state(self, index: int, shape: Sequence[int], *, is_window: bool) -> State:
        """The runtime's letters: c for the last inputs of a convolution, r for any other state."""
        return State(f"kv_cache_{'c' if is_window else 'r'}_{index}", "recurrent", (1, *shape), Write.REPLACE)

    def fixed_state(self, index: int, shape: Sequence[Size], dtype: torch.dtype) -> State:
        return State(f"fixed_{index}", "constant", tuple(shape), Write.FIXED, dtype=dtype)

    def text_signatures(self, program: str, lengths: Sequence[int]) -> tuple[Signature, ...]:
        """`prefill_N` fills the states and gives no logits; `decode` takes one token and gives those that follow it.

        Without `lengths`, `prefill` takes a text of any length, and states are as long as it needs. What stands for
        lengths until they are open is no prime number either.
        """
        if not lengths:
            one, other = {LENGTH: 24, HISTORY: 192}, {LENGTH: 40, HISTORY: 336}
            return (
                Signature("prefill", program, one, frozenset({Role.LOGITS}), other),
                Signature("decode", program, {**one, LENGTH: 1}, open={HISTORY: other[HISTORY]}),
            )
        chunks = (Signature(f"prefill_{n}", program, {LENGTH: n}, frozenset({Role.LOGITS})) for n in lengths)
        return (*chunks, Signature("decode", program, {LENGTH: 1}))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


CPU = _Cpu()
