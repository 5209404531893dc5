"""Targets: what a device's runtime expects of a file. Passes and packaging ask; each target answers in one place."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch._ops import OpOverload

from autoconvert.ir.interface import Role, Size
from autoconvert.ir.model import Signature
from autoconvert.ir.state import State
from autoconvert.ops.semantic import Body


class Target(Protocol):
    """A runtime on a device.

    `port_names` are the names that it knows inputs and outputs by; `section` is what a bundle calls a model of this
    kind. `state_types` says for each kind of state what the runtime's metadata call it.
    """

    @property
    def port_names(self) -> Mapping[Role, str]: ...

    @property
    def state_types(self) -> Mapping[str, str]: ...

    @property
    def section(self) -> str: ...

    @property
    def bodies(self) -> Mapping[OpOverload, Body]:
        """For operations that the device has no kernel for, what computes the same by others, in PyTorch."""

    def capacity(self, context: int) -> int:
        """How many slots a cache has that is to hold `context` positions: no fewer."""

    def key_cache(self, index: int, groups: int, capacity: int, width: int) -> State:
        """The state that holds the keys of the attention with this number, float32."""

    def value_cache(self, index: int, groups: int, capacity: int, width: int) -> State:
        """The state that holds the values of the attention with this number, float32."""

    def scan_state(self, index: int, shape: Sequence[int], *, is_window: bool) -> State:
        """A state of a scan, float32 [1, *shape]; `is_window` where it is the last inputs of a convolution."""

    def fixed_state(self, index: int, shape: Sequence[Size], dtype: torch.dtype) -> State:
        """The state with this number among those that another program writes, once."""

    def text_signatures(self, program: str, lengths: Sequence[int]) -> tuple[Signature, ...]:
        """The signatures by which a text is read in chunks of `lengths`, then continued token by token.

        Without `lengths`, those of a target that reads chunks of any length.
        """
