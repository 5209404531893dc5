"""The past: what a model keeps from one call to the next, in the object that it made for itself.

Layers of it that keep keys and values keep none while the step is traced (cache_layers).
"""

import copy
import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from sympy import nextprime
from torch import Tensor, nn

from autoconvert.errors import InputError, Refused
from autoconvert.source.experts import experts_as_pairs
from autoconvert.tracing.attributes import attributes_restored
from autoconvert.tracing.cache_layers import empty_cache, replace_layers, set_offset
from autoconvert.tracing.python_state import state_of, state_restored
from autoconvert.tracing.settled import refuse_changes, unread_of
from autoconvert.tracing.snapshot import Change, Fact, Snapshot, changes
from autoconvert.tracing.trace import CACHE_PARAMETERS, logits_of, takes_use_cache
from autoconvert.tracing.unread import Unread
from autoconvert.tracing.untraceable import untraceable

# Different from each other and from 1, so that an axis of either shows in a shape.
_BATCH, _LENGTH = 2, 5
_KEPT = "the cache"

# A tensor that a submodule keeps as an attribute: the submodule's path and the attribute's name.
Attribute = tuple[str, str]


@dataclass(frozen=True)
class Past:
    """An example of what a decoder keeps: `parameter` of its forward takes `kept`, `tensors` are in it by path.

    `attributes` are the tensors that its submodules keep for themselves, `counters` whole numbers that are not of any
    text, which nothing may depend on. `held` is what submodules keep in Python, of which `hidden` is not to be read,
    by path.
    """

    parameter: str | None
    kept: Any
    tensors: dict[str, Tensor]
    attributes: dict[Attribute, Tensor]
    counters: dict[str, Tensor]
    held: Snapshot = field(default_factory=Snapshot)
    hidden: dict[str, Unread] = field(default_factory=dict)

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
    ) -> "Stepped":
        """What comes of `tokens` after `offset` int64 [] of them with `values` kept, in the order of `shapes`."""
        memo: dict[int, Any] = {id(old): new for old, new in zip(self.tensors.values(), values, strict=False)}
        memo |= {id(old): new for old, new in zip(self.counters.values(), counts, strict=True)}
        filled = copy.deepcopy(self.kept, memo)
        set_offset(filled, offset)
        with attributes_restored(decoder), state_restored(decoder):
            self.held.put_back()
            for (path, name), value in zip(self.attributes, values[len(self.tensors) :], strict=True):
                setattr(decoder.get_submodule(path), name, value)
            before = state_of(decoder, {_KEPT: filled})
            for path, number in self.hidden.items():
                place = before.facts[path].place
                assert place is not None, path
                place.put(number)
                before.facts[path] = Fact(number, place)
            passed = {self.parameter: filled} if self.parameter else {}
            output = decoder(tokens, use_cache=True, **options, **passed)
            given = _given_back(output, self.parameter, filled)
            found, held = dict(_tensors(given)), _attributes(decoder)
            lost = [path for path in self.tensors if path not in found] + [k for k in self.attributes if k not in held]
            if lost:
                raise Refused(f"What the model keeps at {lost[0]} after {_LENGTH} tokens is gone after one more.")
            after, held_then = state_of(decoder, {_KEPT: given}), state_of(decoder)
        tensors = {path: found[path] for path in self.tensors}
        attributes = {key: held[key] for key in self.attributes}
        counters = {path: found[path] for path in self.counters if path in found}
        past = Past(self.parameter, given, tensors, attributes, counters, held_then)
        changed = [
            *changes(before, after),
            *_other_tensors(before, after, {f"{path or type(decoder).__name__}.{name}" for path, name in held}),
        ]
        return Stepped(logits_of(output), past, changed)


@dataclass(frozen=True)
class Stepped:
    """The logits of a step, what is kept then, and what of it has changed that is no tensor."""

    logits: Tensor
    past: Past
    changes: list[Change]


@dataclass(frozen=True)
class Followed:
    """Pasts whose steps must be the same: the first one, and what it settles to if Python's state `changes` once.

    `takes_together`: one more token gives the logits of several texts.
    """

    pasts: tuple[Past, ...]
    takes_together: bool
    changes: tuple[Change, ...] = ()


def past_of(decoder: nn.Module, slots: int) -> Past:
    """What `decoder` keeps after a few tokens; attention looks back on at least `slots` positions.

    Raises:
        Refused: it keeps nothing that can be passed back.
    """
    try:
        restored = attributes_restored(decoder.eval()), state_restored(decoder)
        with torch.no_grad(), experts_as_pairs(decoder), restored[0], restored[1]:
            name, kept, _ = _call(decoder, torch.zeros(_BATCH, _LENGTH, dtype=torch.int64), {})
            attributes, held = _attributes(decoder), state_of(decoder)
        # A prime is no product of heads and widths: where it stands in a shape, it is the number of slots.
        past = _past(name, kept, attributes, int(nextprime(slots - 1)))
        return replace(past, held=held)
    except (InputError, Refused, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise untraceable("The model's path for a single token cannot be run", error) from error


def followed(decoder: nn.Module, past: Past, slots: int) -> Followed:
    """The past, and what one step more makes of it where that is another for Python; changing numbers are hidden.

    Raises:
        Refused: what the decoder keeps grows, or Python's state changes from step to step.
    """
    tokens = torch.zeros(_BATCH, 1, dtype=torch.int64)

    def stepped(past: Past, offset: int) -> Stepped:
        counts = list(past.counters.values())
        return past.step(decoder, tokens, [tensor.clone() for tensor in past.values], counts, torch.tensor(offset), {})

    with torch.no_grad(), experts_as_pairs(decoder):
        first = stepped(past, _LENGTH)
        for path, old, new in zip((*past.tensors, *past.attributes), past.values, first.past.values, strict=True):
            if old.shape != new.shape or old.shape[:1] != (_BATCH,):
                raise Refused(
                    f"What the model keeps at {path} is {list(old.shape)} after {_LENGTH} tokens of {_BATCH} texts and "
                    f"{list(new.shape)} after one more: neither a state per text nor keys and values."
                )
        takes_together = first.logits.shape[:2] == tokens.shape
        if all(change.place for change in first.changes):
            return Followed((_hiding(past, first, slots),), takes_together)
        second = stepped(first.past, _LENGTH + 1)
    refuse_changes(change for change in second.changes if not change.place)
    once = tuple(change for change in first.changes if not change.place)
    return Followed((_hiding(past, first, slots), _hiding(first.past, second, slots)), takes_together, once)


def _other_tensors(before: Snapshot, after: Snapshot, states: Collection[str]) -> Iterator[Change]:
    """Where modules keep another tensor than before, apart from what is in a cache and attributes that are states."""
    for path, tensor in before.tensors.items():
        is_state = path in states or path.startswith(_KEPT)
        if not is_state and after.tensors.get(path, tensor) != tensor:
            yield Change(path, Fact("a tensor"), Fact("another"))


def _hiding(past: Past, step: Stepped, slots: int) -> Past:
    """The past of which no step may read the numbers that `step` has changed."""
    return replace(past, hidden={change.path: unread_of(change, slots) for change in step.changes if change.place})


def takes_texts_together(decoder: nn.Module, past: Past) -> bool:
    """Whether one more token gives the next logits of several texts at once; Refused where what is kept grows."""
    return followed(decoder, past, _LENGTH).takes_together


def token_by_token(decoder: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Logits [tokens, vocabulary] of the decoder's own path for single tokens, the past as it made it.

    Raises Refused where it has no such path.
    """
    options: dict[str, Any] = {}
    rows = []
    with torch.no_grad(), attributes_restored(decoder), state_restored(decoder):
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
        name = next((name for name in CACHE_PARAMETERS if name in accepted), None)
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
