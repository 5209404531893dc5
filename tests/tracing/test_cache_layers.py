"""Layers of transformers' caches that keep keys and values stand for every position, whichever they are."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from autoconvert.tracing.cache_layers import empty_cache, replace_layers, set_offset
from tests.source.tiny import gemma3, llama

SLOTS = 7
NEW = torch.arange(12.0).reshape(1, 2, 1, 6)


def cache_of(*layers: Any) -> Any:
    cache = DynamicCache()
    cache.layers = list(layers)
    replace_layers(cache, SLOTS)
    return cache


@pytest.mark.parametrize(
    "layer",
    [DynamicLayer, lambda: DynamicSlidingWindowLayer(sliding_window=3), LinearAttentionAndFullAttentionLayer],
    ids=["full", "sliding", "beside a state"],
)
def test_keys_and_values_are_of_all_slots(layer: Any) -> None:
    """A window too: the mask hides what is outside of it."""
    cache = cache_of(layer())
    keys, values = cache.update(NEW, NEW * 2, 0)
    assert keys.shape == values.shape == (1, 2, SLOTS, 6)
    assert torch.equal(values, (NEW * 2).expand(-1, -1, SLOTS, -1))


def test_a_layer_keeps_nothing() -> None:
    """So it is the same after a step, and no tensor is found in it."""
    cache = cache_of(DynamicLayer())
    cache.update(NEW, NEW, 0)
    assert not [value for value in vars(cache.layers[0]).values() if isinstance(value, torch.Tensor)]


def test_masks_are_as_long_as_there_are_slots() -> None:
    cache = cache_of(DynamicLayer())
    assert cache.get_mask_sizes(1, 0) == (SLOTS, 0)
    assert cache.layers[0].get_max_length() == SLOTS


def test_the_offset_is_the_length_so_far() -> None:
    cache, offset = cache_of(DynamicLayer(), LinearAttentionLayer(), DynamicLayer()), torch.tensor(4)
    set_offset(cache, offset)
    assert cache.layers[0].get_seq_length() is offset
    assert cache.layers[2].get_seq_length() is offset
    assert not hasattr(cache.layers[1], "offset")


def test_a_layer_of_states_stays_as_it_is() -> None:
    layer = LinearAttentionLayer()
    assert cache_of(layer).layers[0] is layer


def test_a_layer_of_both_keeps_its_states() -> None:
    layer = LinearAttentionAndFullAttentionLayer()
    layer.update(NEW, NEW)
    layer.update_conv_state(torch.ones(1, 5, 3))
    layer.update_recurrent_state(torch.ones(1, 5))
    (replaced,) = cache_of(layer).layers
    assert torch.equal(replaced.conv_states[0], torch.ones(1, 5, 3))
    assert torch.equal(replaced.recurrent_states[0], torch.ones(1, 5))
    full = replaced.update_conv_state(torch.full((1, 5, 1), 2.0))
    assert torch.equal(full[..., -2:], torch.tensor([1.0, 2.0]).expand(1, 5, 2))


def test_a_layer_of_both_can_have_its_first_state() -> None:
    (replaced,) = cache_of(LinearAttentionAndFullAttentionLayer()).layers
    assert torch.equal(replaced.update_recurrent_state(torch.ones(1, 5)), torch.ones(1, 5))


def test_what_is_no_cache_is_left_alone() -> None:
    kept = [torch.ones(1)]
    replace_layers(kept, SLOTS)
    set_offset(kept, torch.tensor(1))
    assert torch.equal(kept[0], torch.ones(1))


def test_an_empty_cache_has_the_layers_of_the_configuration() -> None:
    assert [type(layer) for layer in empty_cache(llama()).layers] == [DynamicLayer] * 2
    assert [type(layer) for layer in empty_cache(gemma3()).layers] == [DynamicSlidingWindowLayer, DynamicLayer]
