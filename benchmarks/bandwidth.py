"""What a decoded token must read at the least, and how fast this machine reads."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

_BUFFER_BYTES = 1 << 29
_READS = 5


@dataclass(frozen=True)
class StepSizes:
    """The weights that a step multiplies, and for each layer the elements of K and V of a position and its window.

    A window of None is the whole history.
    """

    weights: int
    layers: tuple[tuple[int, int | None], ...]

    def cache_elements(self, history: int) -> int:
        """Elements of K and V that a step with so many positions behind it reads, each once."""
        return sum(elements * (history if window is None else min(history, window)) for elements, window in self.layers)


def step_sizes(checkpoint: Path) -> StepSizes:
    """Of a decoder with attention in every layer, by its configuration.

    An embedding that is only looked up is no read.
    """
    # Building a model imports what warns of processors that are not here.
    logging.disable(logging.WARNING)
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    finally:
        logging.disable(logging.NOTSET)
    weights = sum(parameter.numel() for parameter in model.parameters())
    if not config.tie_word_embeddings:
        weights -= model.get_input_embeddings().weight.numel()
    elements = 2 * config.num_key_value_heads * config.head_dim
    return StepSizes(weights, tuple((elements, window) for window in _windows(config)))


def bytes_of_step(sizes: StepSizes, history: int, decode: int, weight_bits: float, cache_bits: int) -> float:
    """Bytes that the middle one of `decode` steps reads, in files and caches of so many bits an element."""
    cache = sizes.cache_elements(history + decode // 2)
    return (sizes.weights * weight_bits + cache * cache_bits) / 8


def bytes_per_second(threads: int, size: int = _BUFFER_BYTES) -> float:
    """The rate at which so many threads sum a buffer of `size`, which no cache should hold; the best of a few reads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        buffer = torch.ones(size // 4)
        return size / min(_seconds(buffer) for _ in range(_READS))
    finally:
        torch.set_num_threads(before)


def _seconds(buffer: torch.Tensor) -> float:
    begun = time.perf_counter()
    buffer.sum()
    return time.perf_counter() - begun


def _windows(config: PretrainedConfig) -> list[int | None]:
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [config.sliding_window if kind == "sliding_attention" else None for kind in kinds]
