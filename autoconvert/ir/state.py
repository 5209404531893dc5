"""States: tensors that live from call to call."""

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class State:
    """A tensor that lives from call to call: input and output of every signature under one name.

    Keys and values have the context as their `sequence_axis`; what a recurrence keeps has none.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["key", "value", "recurrent"]
    sequence_axis: int | None
    dtype: torch.dtype = torch.float32
