"""The past: what a model keeps from one call to the next, in the object that it made for itself.

The only knowledge of transformers' cache classes is here: layers that keep keys and values are replaced by ones that
keep no values at all, but say in the graph that the values of every earlier position belong there.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoconvert import ops
from autoconvert.errors import Refused
from autoconvert.source.experts import experts_as_pairs
from autoconvert.trace import logits_of

# Different from each other and from 1, so that an axis of either shows in a shape.
_BATCH, _LENGTH = 2, 5


@dataclass(frozen=True)
class Past:
    """An example of what a decoder keeps: `parameter` of its forward takes `kept`, `tensors` are in it by path."""

    parameter: str
    kept: Any
    tensors: dict[str, Tensor]

    def filled(self, values: Sequence[Tensor], offset: Tensor) -> Any:
        """What the decoder takes after `offset` int64 [] tokens, with `values` in the order of `tensors`."""
        memo: dict[int, Any] = {id(old): new for old, new in zip(self.tensors.values(), values, strict=True)}
        filled = copy.deepcopy(self.kept, memo)
        for layer in getattr(filled, "layers", ()):
            if getattr(layer, "keeps_history", False):
                layer.offset = offset
        return filled

    def read(self, kept: Any) -> list[Tensor]:
        """The tensors of the same paths in what the decoder gave back."""
        found = dict(_tensors(kept))
        return [found[path] for path in self.tensors]


def past_of(decoder: nn.Module, slots: int) -> Past:
    """What `decoder` keeps after a few tokens; attention looks back on `slots` positions.

    Raises:
        Refused: it keeps nothing that can be passed back, or more after more tokens.
    """
    parameter, kept = _kept(decoder, _LENGTH)
    _, longer = _kept(decoder, _LENGTH + 1)
    for each in (kept, longer):
        if hasattr(each, "layers"):
            each.layers = [_with_history(layer, slots) for layer in each.layers]
    tensors = dict(_tensors(kept))
    grown = {path: tensor.shape for path, tensor in _tensors(longer)}
    for path, tensor in tensors.items():
        if tensor.shape != grown.get(path) or tensor.shape[:1] != (_BATCH,):
            raise Refused(
                f"What the model keeps at {path} is {list(tensor.shape)} after {_LENGTH} tokens of {_BATCH} texts and "
                f"{list(grown.get(path, ()))} after one more: neither a state per text nor keys and values."
            )
    return Past(parameter, kept, tensors)


def token_by_token(decoder: nn.Module, tokens: Sequence[int]) -> Tensor:
    """Logits [tokens, vocabulary] of the decoder's own path for single tokens, the past as it made it.

    Raises Refused where it has no such path.
    """
    options: dict[str, Any] = {}
    rows = []
    for token in tokens:
        name, kept, logits = _call(decoder, torch.tensor([[token]]), options)
        options = {name: kept}
        rows.append(logits[0])
    return torch.cat(rows).float()


def _kept(decoder: nn.Module, length: int) -> tuple[str, Any]:
    with experts_as_pairs(decoder):
        name, kept, _ = _call(decoder, torch.zeros(_BATCH, length, dtype=torch.int64), {})
    return name, kept


def _call(decoder: nn.Module, tokens: Tensor, options: dict[str, Any]) -> tuple[str, Any, Tensor]:
    """What the decoder gives back that its forward accepts, by name, and the logits."""
    accepted = inspect.signature(decoder.forward).parameters
    if "use_cache" not in accepted:
        raise Refused("The model has no way to run token by token: its forward takes no `use_cache`.")
    with torch.no_grad():
        output = decoder(tokens, use_cache=True, **options)
    fields = output if isinstance(output, dict) else {}
    for name, value in fields.items():
        if name in accepted and not isinstance(value, Tensor):
            return name, value, logits_of(output)
    raise Refused("The model has no way to run token by token: it gives back nothing that its forward accepts.")


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


def _with_history(layer: Any, slots: int) -> Any:
    """The layer, or one that stands for all positions where it keeps keys and values."""
    from transformers.cache_utils import CacheLayerMixin, LinearAttentionLayer

    if not isinstance(layer, CacheLayerMixin):
        return layer
    history, both = _history_layers()
    if not isinstance(layer, LinearAttentionLayer):
        return history(slots)
    replaced = both(slots)
    linear = vars(LinearAttentionLayer(layer.number_of_states))
    vars(replaced).update({name: value for name, value in vars(layer).items() if name in linear})
    return replaced


def _history_layers() -> tuple[Any, Any]:
    """Made on demand: a module in memory converts without transformers."""
    from transformers.cache_utils import CacheLayerMixin, LinearAttentionLayer

    class History(CacheLayerMixin):  # type: ignore[misc]
        """Keys and values [batch, heads, positions, width] of `slots` positions, of which `offset` have been."""

        is_compileable = True
        keeps_history = True
        is_sliding = False

        def __init__(self, slots: int) -> None:
            super().__init__()
            self.slots, self.offset = slots, None
            self.is_initialized = True

        def lazy_initialization(self, *_: Any, **__: Any) -> None:
            return None

        def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return ops.history(keys, self.slots), ops.history(values, self.slots)

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.slots, 0

        def get_seq_length(self) -> Any:
            return self.offset

        def get_max_length(self) -> int:
            return self.slots

    class LinearAttentionAndHistory(LinearAttentionLayer, History):  # type: ignore[misc]
        def __init__(self, slots: int) -> None:
            History.__init__(self, slots)
            LinearAttentionLayer.__init__(self)

        def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
            if kwargs:
                LinearAttentionLayer.lazy_initialization(self, **kwargs)

    return History, LinearAttentionAndHistory
