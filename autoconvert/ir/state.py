"""States: tensors that live from call to call."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

import torch

from autoconvert.ir.interface import Port, Role, Size


class Write(Enum):
    """How a call changes a state."""

    # New entries behind those that are there.
    APPEND = "append"
    # The whole state by its next value.
    REPLACE = "replace"
    # Not at all: another program has written it, once.
    FIXED = "fixed"


@dataclass(frozen=True)
class State:
    """A tensor that is input and output of every signature under one name; one that is FIXED is an input only.

    `capacity` is how many entries lie along `sequence_axis`, a number or a symbol's name; both are None for what a
    scan keeps. `module` is the path of the module that keeps it, "" where none does.
    """

    name: str
    kind: Literal["key", "value", "recurrent", "constant"]
    shape: tuple[Size, ...]
    write: Write
    sequence_axis: int | None = None
    dtype: torch.dtype = torch.float32
    module: str = ""

    @property
    def capacity(self) -> Size | None:
        return None if self.sequence_axis is None else self.shape[self.sequence_axis]

    def with_capacity(self, capacity: Size) -> "State":
        """The same for so many entries; as it is where none lie along an axis."""
        if self.sequence_axis is None:
            return self
        shape = list(self.shape)
        shape[self.sequence_axis] = capacity
        return replace(self, shape=tuple(shape))

    @property
    def port(self) -> Port:
        return Port(self.name, Role.STATE, self.dtype, self.shape)
