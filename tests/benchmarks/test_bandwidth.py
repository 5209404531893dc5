"""What a decoded token reads follows from the configuration alone."""

from pathlib import Path

import bandwidth
import pytest
from transformers import AutoConfig

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def sizes(folder: Path, model_type: str, **settings: object) -> bandwidth.StepSizes:
    AutoConfig.for_model(model_type, **{**SIZES, **settings}).save_pretrained(folder)
    return bandwidth.step_sizes(folder)


def test_a_tied_embedding_is_read_as_the_head_and_an_untied_one_is_not(tmp_path: Path) -> None:
    tied = sizes(tmp_path, "llama", tie_word_embeddings=True)
    untied = sizes(tmp_path, "llama", tie_word_embeddings=False)
    assert tied.weights == untied.weights > 300 * 32


def test_the_cache_of_a_window_stops_growing(tmp_path: Path) -> None:
    layers = ["sliding_attention", "full_attention"]
    read = sizes(tmp_path, "gemma3_text", sliding_window=10, layer_types=layers)
    element = 2 * 2 * 8
    assert read.cache_elements(5) == element * (5 + 5)
    assert read.cache_elements(100) == element * (10 + 100)


def test_a_step_reads_weights_and_cache_in_their_own_bits() -> None:
    read = bandwidth.StepSizes(1000, ((4, None), (4, 16)))
    assert bandwidth.bytes_of_step(read, 28, 8, 8.5, 16) == pytest.approx(1000 * 8.5 / 8 + (4 * 32 + 4 * 16) * 2)


def test_reading_memory_takes_time() -> None:
    assert 1e8 < bandwidth.bytes_per_second(1, 1 << 24) < 1e13
