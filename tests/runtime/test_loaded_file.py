"""A file keeps its buffers: the runtime does not write one that lies where memory that it has freed was."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autoconvert
from autoconvert.runtime.loaded_file import LoadedFile
from autoconvert.runtime.runner import Runner
from tests.source.tiny import CONFIGS, build


class Recorded:
    """The runtime's model; of each buffer that is made, the signature, its sizes at that time, and what it is of."""

    def __init__(self, model: Any, sizes: dict[str, dict[str, tuple[int, ...]]]) -> None:
        self._model, self._sizes = model, sizes
        self.made: Counter[Any] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def create_input_buffer_by_name(self, signature: str, name: str) -> Any:
        return self._made("input", signature, name)

    def create_output_buffer_by_name(self, signature: str, name: str) -> Any:
        return self._made("output", signature, name)

    def _made(self, kind: str, signature: str, name: str) -> Any:
        self.made[kind, signature, name, tuple(sorted(self._sizes[signature].items()))] += 1
        return getattr(self._model, f"create_{kind}_buffer_by_name")(signature, name)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return autoconvert.convert(
        build(CONFIGS["llama"]),
        tmp_path_factory.mktemp("llama"),
        quantize="none",
        context=64,
        formats=("tflite",),
        verify="off",
    ).files["tflite"]


def test_a_buffer_is_made_anew_only_where_sizes_change(path: Path, tmp_path: Path) -> None:
    file = LoadedFile(str(path), str(tmp_path / "packed"))
    file._model = recorded = Recorded(file._model, file._sizes)  # type: ignore[arg-type]
    runner = Runner(file.types(), file.run, file.reset)
    first = runner.logits_at(list(range(9)), 8)
    for _ in range(2):
        # The caches grow, and are short again.
        assert np.array_equal(runner.logits_at(list(range(9)), 8), first)
        runner.prefill(list(range(20)))
        runner.decode(1)
    caches = [count for (kind, _, name, _), count in recorded.made.items() if kind == "input" and "cache" in name]
    assert caches and set(caches) == {2}


def test_a_text_that_is_read_again_makes_no_buffer(path: Path, tmp_path: Path) -> None:
    file = LoadedFile(str(path), str(tmp_path / "packed"))
    file._model = recorded = Recorded(file._model, file._sizes)  # type: ignore[arg-type]
    runner = Runner(file.types(), file.run, file.reset)
    runner.logits_at(list(range(9)), 8)
    made = recorded.made.copy()
    runner.logits_at(list(range(1, 10)), 8)
    for token in range(4):
        runner.decode(token)
    assert recorded.made == made
