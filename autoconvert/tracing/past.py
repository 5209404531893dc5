"""The past: what a model keeps from one call to the next, in the object that it made for itself.

Layers of it that keep keys and values keep none while the step is traced (cache_layers).
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sympy import nextprime
from torch import Tensor, nn

from autoconvert.errors import InputError, Refused
from autoconvert.source.experts import experts_as_pairs
from autoconvert.tracing.attributes import attributes_restored
from autoconvert.tracing.cache_layers import empty_cache, replace_layers, set_offset
from autoconvert.tracing.python_state import Place, changed, numbers, numbers_of_module, numbers_restored, put, unread
from autoconvert.tracing.trace import logits_of, takes_use_cache
from autoconvert.tracing.untraceable import untraceable

# Different from each other and from 1, so that an axis of either shows in a shape.
_BATCH, _LENGTH = 2, 5
_KEPT = "the cache"
_CACHE_PARAMETERS = ("past_key_values", "cache_params")

# A tensor that a submodule keeps as an attribute: the submodule's path and the attribute's name.
Attribute = tuple[str, str]


@dataclass(frozen=True)
class Past:
    """An example of what a decoder keeps: `parameter` of its forward takes `kept`, `tensors` are in it by path.

    `attributes` are the tensors that its submodules keep for themselves, `counters` whole numbers that are not of any
    text, which nothing may depend on. `numbers` are those that submodules keep in Python.
    """

    parameter: str | None
    kept: Any
    tensors: dict[str, Tensor]
    attributes: dict[Attribute, Tensor]
    counters: dict[str, Tensor]
    numbers: tuple[tuple[Place, Any], ...] = ()

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape without the batch and type of every tensor."""
        return [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in self.values]

    @property
    def values(self) -> list[Tensor]:
        """Every tensor but the counters."""
        return [*self.tensors.values(), *self.attributes.values()]

    def step(
        self,
        decoder: nn.Module,
        tokens: Tensor,
        values: Sequence[Tensor],
        counts: Sequence[Tensor],
        offset: Tensor,
        options: dict[str, Any],
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits after `offset` int64 [] tokens with `values` kept, in the order of `shapes`, and what is kept then."""
        return self.step_and_numbers(decoder, tokens, values, counts, offset, options)[:2]

    def step_and_numbers(
        self,
        decoder: nn.Module,
        tokens: Tensor,
        values: Sequence[Tensor],
        counts: Sequence[Tensor],
        offset: Tensor,
        options: dict[str, Any],
    ) -> tuple[Tensor, list[Tensor], list[tuple[Place, Any]]]:
        """As `step`, and the numbers that Python keeps then."""
        memo: dict[int, Any] = {id(old): new for old, new in zip(self.tensors.values(), values, strict=False)}
        memo |= {id(old): new for old, new in zip(self.counters.values(), counts, strict=True)}
        filled = copy.deepcopy(self.kept, memo)
        set_offset(filled, offset)
        with attributes_restored(decoder), numbers_restored(decoder):
            put(self.numbers)
            for (path, name), value in zip(self.attributes, values[len(self.tensors) :], strict=True):
                setattr(decoder.get_submodule(path), name, value)
            passed = {self.parameter: filled} if self.parameter else {}
            output = decoder(tokens, use_cache=True, **options, **passed)
            given = _given_back(output, self.parameter, filled)
            found, held = dict(_tensors(given)), _attributes(decoder)
            lost = [path for path in self.tensors if path not in found] + [k for k in self.attributes if k not in held]
            if lost:
                raise Refused(f"What the model keeps at {lost[0]} after {_LENGTH} tokens is gone after one more.")
            after = [found[path] for path in self.tensors] + [held[key] for key in self.attributes]
            kept_numbers = [*numbers(given, _KEPT), *numbers_of_module(decoder)]
        return logits_of(output), after, kept_numbers

    def unread(self, after: Sequence[tuple[Place, Any]], steps: int) -> "Past":
        """The past where nothing may read the numbers that are others in `after`, one token later.

        Raises:
            Refused: what changes is no number that can be hidden.
        """
        of_modules, of_kept = dict(self.numbers), dict(numbers(self.kept, _KEPT))
        for place, old, new in changed([*of_modules.items(), *of_kept.items()], after):
            hidden = unread(place.path, old, new, steps)
            if place in of_modules:
                of_modules[place] = hidden
            else:
                place.put(hidden)
        return replace(self, numbers=tuple(of_modules.items()))


def past_of(decoder: nn.Module, slots: int) -> Past:
    """What `decoder` keeps after a few tokens; attention looks back on at least `slots` positions.

    Raises:
        Refused: it keeps nothing that can be passed back.
    """
    try:
        restored = attributes_restored(decoder.eval()), numbers_restored(decoder)
        with torch.no_grad(), experts_as_pairs(decoder), restored[0], restored[1]:
            name, kept, _ = _call(decoder, torch.zeros(_BATCH, _LENGTH, dtype=torch.int64), {})
            attributes, held = _attributes(decoder), tuple(numbers_of_module(decoder))
        # A prime is no product of heads and widths: where it stands in a shape, it is the number of slots.
        past = _past(name, kept, attributes, int(nextprime(slots - 1)))
        return replace(past, numbers=held)
    except (InputError, Refused, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise untraceable("The model's path for a single token cannot be run", error) from error


def followed(decoder: nn.Module, past: Past, slots: int) -> tuple[Past, bool]:
    """The past whose changing numbers are not to be read, and whether one more token gives the logits of several texts.

    Raises:
        Refused: what the decoder keeps grows.
    """
    tokens, offset = torch.zeros(_BATCH, 1, dtype=torch.int64), torch.tensor(_LENGTH)
    values = [tensor.clone() for tensor in past.values]
    with torch.no_grad(), experts_as_pairs(decoder):
        logits, after, numbers_then = past.step_and_numbers(
            decoder, tokens, values, list(past.counters.values()), offset, {}
        )
    for path, before, now in zip((*past.tensors, *past.attributes), values, after, strict=True):
        if before.shape != now.shape or before.shape[:1] != (_BATCH,):
            raise Refused(
                f"What the model keeps at {path} is {list(before.shape)} after {_LENGTH} tokens of {_BATCH} texts and "
                f"{list(now.shape)} after one more: neither a state per text nor keys and values."
            )
    return past.unread(numbers_then, slots), logits.shape[:2] == tokens.shape


def takes_texts_together(decoder: nn.Module, past: Past) -> bool:
    """Whether one more token gives the next logits of several texts at once; Refused where what is kept grows."""
    return followed(decoder, past, _LENGTH)[1]


def token_by_token(decoder: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Logits [tokens, vocabulary] of the decoder's own path for single tokens, the past as it made it.

    Raises Refused where it has no such path.
    """
    options: dict[str, Any] = {}
    rows = []
    with torch.no_grad(), attributes_restored(decoder), numbers_restored(decoder):
        for token in tokens:
            name, kept, logits = _call(decoder, torch.tensor([[token]]), options)
            options = {name: kept} if name else {}
            rows.append(logits[0])
    return torch.cat(rows).float()


def _past(name: str | None, kept: Any, attributes: dict[Attribute, Tensor], slots: int) -> Past:
    replace_layers(kept, slots)
    tensors = dict(_tensors(kept))
    counters = {path: tensor for path, tensor in tensors.items() if _is_counter(tensor)}
    return Past(name, kept, {p: t for p, t in tensors.items() if p not in counters}, attributes, counters)


def _is_counter(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.shape[:1] != (_BATCH,)


def _call(decoder: nn.Module, tokens: Tensor, options: dict[str, Any]) -> tuple[str | None, Any, Tensor]:
    """What the decoder gives back or fills that its forward accepts, by name, and the logits."""
    accepted = inspect.signature(decoder.forward).parameters
    if not takes_use_cache(decoder):
        raise Refused("The model has no way to run token by token: its forward takes no `use_cache`.")
    output = decoder(tokens, use_cache=True, **options)
    fields = output if isinstance(output, dict) else {}
    name = next((n for n, value in fields.items() if n in accepted and not isinstance(value, Tensor)), None)
    if name is None and not options:
        name = next((name for name in _CACHE_PARAMETERS if name in accepted), None)
        if name is not None and hasattr(decoder, "config"):
            return _call(decoder, tokens, {name: empty_cache(decoder.config)})
    name = name or next(iter(options), None)
    if name is None and not _attributes(decoder):
        raise Refused("The model has no way to run token by token: it gives back nothing that its forward accepts.")
    return name, _given_back(output, name, options.get(name or "")), logits_of(output)


def _given_back(output: Any, name: str | None, passed: Any) -> Any:
    """What the decoder returned under the name, or else what it was passed and has written into."""
    fields = output if isinstance(output, dict) else {}
    return passed if name is None or fields.get(name) is None else fields[name]


def _attributes(decoder: nn.Module) -> dict[Attribute, Tensor]:
    return {
        (path, name): value
        for path, module in decoder.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    }


def _tensors(value: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in an object of containers and plain objects, once, with the path to it."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{path}.{key}", seen)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{path}.{index}", seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        yield from _tensors(vars(value), path, seen)
