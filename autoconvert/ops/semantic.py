"""How a semantic operation is made: one body in plain PyTorch, from which everything else follows."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

Body = Callable[..., Any]

# Where operations of this project are, and those that patterns bring.
NAMESPACE = "autoconvert"
OUTSIDE = "outside"


def semantic(body: Body, fake: Body | None = None) -> OpOverload:
    """Registers `body` as the operation `autoconvert::<its name>`, traced as one node and executable as it is.

    `fake` gives a value of the same shape where the body itself needs real numbers.
    """
    return _registered(NAMESPACE, body.__name__, body, fake or body)


@dataclass(frozen=True)
class Operation:
    """A semantic operation that a pattern brings, called as its body is.

    It is a node `overload` while blocks are fused, and what `device` computes from then on.
    """

    overload: OpOverload
    device: Body

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.overload(*args, **kwargs)


def operation(body: Body, device: Body | None = None) -> Operation:
    """The operation that computes `body`, a function of annotated tensors and numbers, and is lowered as `device`.

    Both are written in PyTorch and give the same numbers; without `device` it is lowered as `body`.
    """
    # A name may be taken by another file, or by what this one was before it was changed.
    names = (f"{body.__name__}{suffix}" for suffix in itertools.chain([""], (f"_{n}" for n in itertools.count(2))))
    name = next(name for name in names if not hasattr(getattr(torch.ops, OUTSIDE), name))
    return Operation(_registered(OUTSIDE, name, body, body), device or body)


def _registered(namespace: str, name: str, body: Body, fake: Body) -> OpOverload:
    made = torch.library.custom_op(f"{namespace}::{name}", body, mutates_args=())
    made.register_fake(fake)
    overload: OpOverload = getattr(getattr(torch.ops, namespace), name).default
    return overload
