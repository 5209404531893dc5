"""Tensors that a module keeps as attributes or buffers: a call that is no real one must leave none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def attributes_restored(decoder: nn.Module) -> Iterator[None]:
    """What submodules keep for themselves is as before when the context ends."""
    modules = list(decoder.modules())
    before = [(module, dict(vars(module))) for module in modules]
    buffers = [(module, dict(module._buffers), set(module._non_persistent_buffers_set)) for module in modules]
    try:
        yield
    finally:
        for module, attributes in before:
            for name in [name for name, value in vars(module).items() if _is_plain(value) and name not in attributes]:
                delattr(module, name)
            now = vars(module)
            old = {k: v for k, v in attributes.items() if _is_plain(v) or isinstance(now.get(k), Tensor)}
            now.update(old)
        for module, held, not_saved in buffers:
            module._buffers.clear()
            module._buffers.update(held)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(not_saved)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Tensor)
