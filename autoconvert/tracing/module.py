"""Tracing any module by its ports: it is called once at symbolic sizes, and becomes a Program."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from autoconvert.errors import AutoconvertError, Inseparable
from autoconvert.ir.interface import Port, Role, Size
from autoconvert.ir.program import Program
from autoconvert.tracing.exported import export, program_of
from autoconvert.tracing.layout_guards import without_layout_guards
from autoconvert.tracing.length_guards import LengthGuard, first_broken, length_guards
from autoconvert.tracing.settled import trace_settled
from autoconvert.tracing.untraceable import untraceable

# The example that is traced has a prime for each symbol: from the eighth on, 19.
_FIRST_PRIME = 8


class Called(nn.Module):
    """A module by one of its methods; where positions are added to what it takes, they come last and are left out."""

    def __init__(self, module: nn.Module, method: str, count: int) -> None:
        super().__init__()
        self.decoder = module
        self._method, self._count = method, count

    def forward(self, *values: Tensor) -> Any:
        return getattr(self.decoder, self._method)(*values[: self._count])


def trace_module(
    module: nn.Module,
    inputs: Sequence[Port],
    outputs: Sequence[tuple[str, Role]],
    longest: Mapping[str, int],
    *,
    method: str = "forward",
    streamed: str | None = None,
) -> Program:
    """Traces `method` of `module`, which takes tensors as `inputs` say and gives one for each of `outputs`.

    `longest` has the largest value of each symbol. A program that is `streamed` along one takes positions too.

    Raises:
        Inseparable: the module's code cannot be traced, or only at fixed sizes.
    """
    called = Called(module.eval(), method, len(inputs))
    taken = list(inputs)
    if streamed is not None and not any(port.role is Role.POSITIONS for port in inputs):
        taken.append(Port(Role.POSITIONS.value, Role.POSITIONS, torch.int64, (1, streamed)))
    return trace_ports(called, taken, outputs, longest, streamed=streamed)


def trace_ports(
    called: nn.Module,
    inputs: Sequence[Port],
    outputs: Sequence[tuple[str, Role]],
    longest: Mapping[str, int],
    *,
    streamed: str | None,
) -> Program:
    """As trace_module, of a module that holds the one to be traced as its `decoder`."""
    symbols = {name: Dim(name, min=2, max=size) for name, size in longest.items()}
    sizes = {name: min(sympy.prime(at), longest[name] - 1) for at, name in enumerate(longest, _FIRST_PRIME)}
    shapes = tuple({a: symbols[s] for a, s in enumerate(port.shape) if isinstance(s, str)} or None for port in inputs)
    takes_any = isinstance(called, Called)
    lengths = range(2, max(longest.values()) + 1)

    def traced() -> ExportedProgram:
        args = tuple(_example(port, sizes) for port in inputs)
        return trace_settled(called, lambda: export(called, args, (shapes,) if takes_any else shapes))

    def program() -> Program:
        return dataclasses.replace(program_of(traced(), inputs, outputs, lengths), streamed=streamed)

    try:
        return program()
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, AutoconvertError) and not isinstance(error, Inseparable):
            raise
        with suppress(Exception), without_layout_guards():
            return program()
        if isinstance(error, Inseparable):
            raise
        refusal = untraceable("The model's code cannot be traced with a symbolic length", error)
        if refusal.hint:
            raise refusal from error
        # Only what fails is traced again and listened to: torch looks up the stack for each guard that it tells.
        with length_guards() as guards, suppress(type(error)):
            traced()
        broken = first_broken(guards, lengths)
        raise (refusal if broken is None else _decides_by_length(broken)) from error


def _decides_by_length(guard: LengthGuard) -> Inseparable:
    return Inseparable(
        f"The model's code decides by the length of its text: {guard}, which does not hold at every length.",
        hint=f"{guard.line} Write what holds at any length there, by operations on tensors.",
    )


def _example(port: Port, sizes: Mapping[str, int]) -> Tensor:
    shape = [_number(size, sizes) for size in port.shape]
    if port.role is Role.POSITIONS:
        return torch.arange(shape[-1]).expand(shape)
    # True, so that a mask hides nothing.
    return torch.ones(shape, dtype=port.dtype) if port.dtype == torch.bool else torch.zeros(shape, dtype=port.dtype)


def _number(size: Size, sizes: Mapping[str, int]) -> int:
    if isinstance(size, str) and size not in sizes:
        raise Inseparable(f"The size {size} of an input has no largest value.")
    return sizes[size] if isinstance(size, str) else size
