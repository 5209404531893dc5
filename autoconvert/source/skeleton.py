"""A module whose parameters have shapes but no values.

FakeTensorMode and TorchDispatchMode are not public interfaces of torch; they are made in this file alone. The
meta device would not do: it takes the values of buffers as well, and torch.export writes it into the graph.
"""

import copy
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from autoconvert.errors import InputError, Refused

Module = TypeVar("Module", bound=nn.Module)

# A tensor of so many numbers is never given memory, not even until it becomes a parameter: stacked experts.
_LARGE = 1 << 28


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape but no value."""
    return isinstance(tensor, FakeTensor) or tensor.device.type == "meta"


def build_without_values(build: Callable[[], Module]) -> Module:
    """What `build` returns, in eval mode, its parameters without values; buffers are computed as always.

    Raises Refused where building needs the value of a parameter.
    """
    try:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with _parameters_lose_values(mode), _ValuesStayTrue(mode):
            return build().eval()
    except (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedFakeTensorException,
    ) as error:
        raise _needs_values(str(error.__cause__ or error.args[0])) from error


def copy_without_values(module: Module) -> Module:
    """A copy of `module` in eval mode and float32, its parameters without values, its buffers real.

    Raises InputError where the module cannot be copied.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        dtype = torch.float32 if parameter.is_floating_point() else parameter.dtype
        with mode:
            fake = torch.empty(parameter.shape, dtype=dtype)
        memo[id(parameter)] = nn.Parameter(fake, requires_grad=False)
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise InputError(
            f"{type(module).__name__}: cannot be copied ({type(error).__name__}: {error})",
            hint="make the module work with copy.deepcopy, or pass the folder it was saved to",
        ) from error
    for path, owner in copied.named_modules():
        for name, buffer in owner.named_buffers(prefix=path, recurse=False):
            if buffer.dtype in (torch.float16, torch.bfloat16):
                set_buffer(copied, name, buffer.to(torch.float32))
    return copied.eval()


def set_buffer(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace the buffer called `name`, a path from `module`."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, value)


def untie(module: nn.Module, name: str) -> None:
    """Give the parameter called `name` an identity of its own, without a value."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    fake = owner.get_parameter(leaf).detach()
    assert isinstance(fake, FakeTensor)
    with fake.fake_mode:
        fresh = torch.empty_like(fake)
    owner.register_parameter(leaf, nn.Parameter(fresh, requires_grad=False))


class _ValuesStayTrue(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to write a value that is not there into a tensor that has one: it would keep the old one.

    What is too large to be a buffer has no value from the start. A constructor may move a module to another dtype.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if operation._schema.is_mutable and tensors and not is_fake(tensors[0]) and any(map(is_fake, tensors)):
            raise _needs_values(str(operation))
        if operation is torch.ops.aten.empty.memory_format and math.prod(args[0]) >= _LARGE:
            with self._mode:
                return operation(*args, **(kwargs or {}))
        result = operation(*args, **(kwargs or {}))
        # Its weak references to what it has made keep `Module.to` from exchanging a parameter in its place.
        self._mode.fake_tensor_converter.tensor_memo.clear()
        return result


def _needs_values(operation: str) -> Refused:
    return Refused(
        f"building the module computes with the values of its weights ({operation})",
        hint="move that computation into forward, or register its result as a persistent buffer",
    )


@contextmanager
def _parameters_lose_values(mode: FakeTensorMode) -> Iterator[None]:
    # By the real parameter while it lives, so that registering it twice gives one parameter: a tie.
    known: weakref.WeakValueDictionary[int, nn.Parameter] = weakref.WeakValueDictionary()
    fakes: dict[int, nn.Parameter] = {}

    def forget(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None:
            return None
        if is_fake(parameter):
            parameter._is_hf_initialized = True  # type: ignore[attr-defined]
            return None
        key = id(parameter)
        if known.get(key) is not parameter:
            known[key] = parameter
            fake = mode.from_tensor(parameter.detach())
            fakes[key] = nn.Parameter(fake, requires_grad=False)
            fakes[key].__dict__.update(parameter.__dict__)
            # transformers initialises what lacks this mark, and some of its initialisations look at values.
            fakes[key]._is_hf_initialized = True  # type: ignore[attr-defined]
        return fakes[key]

    handle = register_module_parameter_registration_hook(forget)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
