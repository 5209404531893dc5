"""Mixtures of experts: how a model computes them while it is traced."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

# One row for each pair of a token and one of its experts, with the weights picked by number: no loop over experts
# whose tokens are only known at run time, and no sorting of tokens by expert.
PAIRS = "batched_mm"


@contextmanager
def experts_as_pairs(module: nn.Module) -> Iterator[None]:
    """Sets `experts_implementation` of every transformers model in `module`, and sets it back on leaving.

    A model whose class offers no choice of implementation stays as it is.
    """
    with ExitStack() as stack:
        for model in module.modules():
            if hasattr(model, "set_experts_implementation") and hasattr(model, "get_experts_implementation"):
                stack.enter_context(_set(model, PAIRS))
        yield


@contextmanager
def _set(model: Any, implementation: str) -> Iterator[None]:
    before = model.get_experts_implementation()
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(before)
