"""Tracing: the model is called once, without a cache, at a symbolic length, and becomes a Program."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from autoconvert.errors import InputError
from autoconvert.ir.interface import Port, Role
from autoconvert.ir.program import LENGTH, Program
from autoconvert.tracing.module import trace_ports

# What the trace of a whole text takes: one text, and where each of its tokens stands.
TEXT = tuple(Port(role.value, role, torch.int64, (1, LENGTH)) for role in (Role.TOKENS, Role.POSITIONS))

POSITION_PARAMETERS = ("position_ids", "positions")
# `cache` is transformers' name since 5.24, the others what it and code that comes with a model had before.
CACHE_PARAMETERS = ("cache", "past_key_values", "cache_params")


class TokensToLogits(nn.Module):
    """Calls any decoder in the one way the compiler needs.

    `tokens` int64 [1, sequence] and `positions` int64 [1, sequence] give logits float32 [1, sequence, vocabulary].
    Positions are passed on only where the decoder asks for them: one that can do without makes its own, and those
    are what people get who call it. With `always_placed` it gets them wherever it takes them. With `keep` int64 [kept]
    the logits are those at these positions alone, [1, kept, vocabulary]; a decoder that can leave out the others does.
    """

    def __init__(self, decoder: nn.Module, *, always_placed: bool = False) -> None:
        super().__init__()
        self.decoder = decoder
        self._parameters_of_forward = inspect.signature(decoder.forward).parameters
        asks = self._takes if always_placed else self._requires
        self._position_parameter = next((name for name in POSITION_PARAMETERS if asks(name)), None)

    def _takes(self, name: str) -> bool:
        return name in self._parameters_of_forward

    def _requires(self, name: str) -> bool:
        return self._takes(name) and self._parameters_of_forward[name].default is inspect.Parameter.empty

    def forward(self, tokens: Tensor, positions: Tensor, keep: Tensor | None = None) -> Tensor:
        options: dict[str, Any] = {}
        if self._position_parameter:
            options[self._position_parameter] = positions
        if takes_use_cache(self.decoder):
            options["use_cache"] = False
        leaves_out = keep is not None and "logits_to_keep" in self._parameters_of_forward
        if leaves_out:
            options["logits_to_keep"] = keep
        logits = logits_of(self.decoder(tokens, **options))
        return logits if keep is None or leaves_out else logits[:, keep]


def takes_use_cache(decoder: nn.Module) -> bool:
    """Whether the decoder may be told to keep its past, by name or among whatever else it passes on."""
    parameters = inspect.signature(decoder.forward).parameters
    passes_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return "use_cache" in parameters or (passes_on and any(name in parameters for name in CACHE_PARAMETERS))


def logits_of(output: object) -> Tensor:
    """The logits in whatever a decoder returns: a tensor, a tuple that starts with it, or a field `logits`."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"The model returns {type(output).__name__}, in which no logits are found.",
            hint="forward(tokens) must return a tensor, a tuple that starts with it, or an object with `logits`.",
        )
    return logits


def trace(decoder: nn.Module, longest: int) -> Program:
    """Traces `decoder` at a symbolic length of at most `longest` positions.

    The program's graph takes `tokens` and `positions` (int64 [1, s]) and every parameter by name, and
    returns `logits` (float32 [1, s, vocabulary]). Buffers are constants of the graph.

    Raises:
        Inseparable: the model's code cannot be traced, or only at a fixed length.
    """
    called, logits = TokensToLogits(decoder.eval()), (Role.LOGITS.value, Role.LOGITS)
    return trace_ports(called, TEXT, [logits], {LENGTH: longest}, streamed=LENGTH)
