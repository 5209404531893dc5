"""The one knowledge of transformers' cache classes: layers of keys and values that keep none.

They are replaced by layers that say in the graph that the values of every earlier position belong there.
"""

from typing import Any

from torch import Tensor

from autoconvert import ops


def empty_cache(config: Any) -> Any:
    """A cache as transformers makes it for a model of this configuration."""
    from transformers import DynamicCache

    return DynamicCache(config=config)


def replace_layers(kept: Any, slots: int) -> None:
    """Where `kept` is a cache, its layers of keys and values stand for `slots` positions from now on."""
    if hasattr(kept, "layers"):
        kept.layers = [_with_history(layer, slots) for layer in kept.layers]


def set_offset(kept: Any, offset: Tensor) -> None:
    """Tells the layers that `replace_layers` has made that `offset` int64 [] positions have been."""
    for layer in getattr(kept, "layers", ()):
        if getattr(layer, "keeps_history", False):
            layer.offset = offset


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
