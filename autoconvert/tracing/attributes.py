"""Tensors that a module keeps as attributes: a call that is no real one must leave none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def attributes_restored(decoder: nn.Module) -> Iterator[None]:
    """What submodules keep for themselves is as before when the context ends."""
    before = [(module, dict(vars(module))) for module in decoder.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            for name in [name for name, value in vars(module).items() if _is_plain(value) and name not in attributes]:
                delattr(module, name)
            now = vars(module)
            old = {k: v for k, v in attributes.items() if _is_plain(v) or isinstance(now.get(k), Tensor)}
            now.update(old)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Tensor)
