"""The device's own operations as operations of PyTorch, which litert-torch registers when it is imported."""

from typing import Any

import torch


def tfl_operations() -> Any:
    """The namespace `torch.ops.tfl`; the first call imports litert-torch, which takes seconds."""
    import litert_torch.backend.experimental.torch_tfl  # noqa: F401

    return torch.ops.tfl
