"""How a semantic operation is made: one body in plain PyTorch, from which everything else follows."""

import functools
import inspect
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

Body = Callable[..., Any]

# Where operations of this project are, and those that patterns bring.
NAMESPACE = "autoconvert"
OUTSIDE = "outside"


def semantic(body: Body, fake: Body | None = None) -> OpOverload:
    """Registers `body` as the operation `autoconvert::<its name>`, traced as one node and executable as it is.

    `fake` gives a value of the same shape where the body itself needs real numbers. The operation's `__doc__` is the
    body's, after its signature.
    """
    overload = _registered(NAMESPACE, body.__name__, body, fake or body)
    overload.__doc__ = f"{body.__name__}{inspect.signature(body)}\n\n{inspect.getdoc(body)}"
    return overload


@dataclass(frozen=True)
class Operation:
    """A semantic operation that a pattern brings, called as its body is.

    It is a node `overload` while blocks are fused, and what `device` computes from then on.
    """

    overload: OpOverload
    body: Body
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
    return Operation(_registered(OUTSIDE, name, body, body), body, device or body)


def _registered(namespace: str, name: str, body: Body, fake: Body) -> OpOverload:
    made = torch.library.custom_op(f"{namespace}::{name}", body, mutates_args=())
    made.register_fake(_remembering(fake))
    overload: OpOverload = getattr(getattr(torch.ops, namespace), name).default
    return overload


def _remembering(fake: Body) -> Body:
    """`fake`, which is run once for arguments of the same shapes in numbers: the layers of a model are alike."""
    known: dict[Hashable, tuple[list[tuple[Any, ...]], pytree.TreeSpec]] = {}

    @functools.wraps(fake)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if any(map(_is_symbolic, leaves)):
            return fake(*args, **kwargs)
        key = (tuple(map(_described, leaves)), spec)
        if key not in known:
            made, structure = pytree.tree_flatten(fake(*args, **kwargs))
            known[key] = [_described(each) for each in made], structure
        described, structure = known[key]
        values = [torch.empty_strided(size, stride, dtype=dtype, device=at) for size, stride, dtype, at in described]
        return pytree.tree_unflatten(values, structure)

    return remembered


def _is_symbolic(value: Any) -> bool:
    sizes = (*value.shape, *value.stride()) if isinstance(value, Tensor) else (value,)
    return any(isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes)


def _described(value: Any) -> tuple[Any, ...]:
    """What is known of a tensor without its numbers; of anything else itself, where True is not 1."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    return type(value), value
