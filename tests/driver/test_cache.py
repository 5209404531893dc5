"""A model that was compiled before is only linked, to the same bytes; anything that decides the graph is noticed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from autoconvert.driver.cache import FOLDER_VARIABLE, cache_folder, key_of, load, store
from autoconvert.driver.convert import Bundle, convert
from autoconvert.driver.library import Library
from autoconvert.driver.settings import Settings, choose
from autoconvert.source.source import load_source
from tests.source.tiny import build, llama


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    torch.manual_seed(seed)
    model = build(llama(**overrides))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def converted(model: Path, output: Path, **options: Any) -> Bundle:
    given: dict[str, Any] = {"context": 16, "prefill": (4,), "formats": ("tflite",), "quantize": "none", **options}
    return convert(model, output, **given)


def stages(bundle: Bundle) -> list[str]:
    return [stage.name for stage in bundle.report.stages]


def content(bundle: Bundle) -> bytes:
    return bundle.files["tflite"].read_bytes()


def test_a_fine_tune_is_only_linked_and_is_what_a_whole_conversion_gives(tmp_path: Path) -> None:
    converted(save(tmp_path / "one"), tmp_path / "first")
    other = save(tmp_path / "other", seed=1)
    relinked = converted(other, tmp_path / "second")
    assert "trace" not in stages(relinked) and "reuse" in stages(relinked)
    assert content(relinked) == content(converted(other, tmp_path / "third", cache=False))


def test_another_quantization_is_only_linked(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    converted(model, tmp_path / "first")
    relinked = converted(model, tmp_path / "second", quantize="int8")
    assert "reuse" in stages(relinked)
    assert content(relinked) == content(converted(model, tmp_path / "third", quantize="int8", cache=False))


def test_another_pattern_file_is_compiled_anew_and_the_same_is_not(tmp_path: Path) -> None:
    model, file = save(tmp_path / "model"), tmp_path / "blocks.py"
    text = """from torch import Tensor
import torch.nn.functional as F
from autoconvert import ops
from autoconvert.rewrite.pattern import Pattern

def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(F.linear(x, gate)) * F.linear(x, up)

SWIGLU = ops.operation(gated)
PATTERNS = (
    Pattern("swiglu", "own", gated, SWIGLU, {"x": (1, 5, 14), "gate": (22, 14), "up": (22, 14)}, operations=(SWIGLU,)),
)
"""
    file.write_text(text)
    first = converted(model, tmp_path / "first", patterns=[file])
    assert first.report.blocks["own"] == 2
    again = converted(model, tmp_path / "second", patterns=[file])
    assert "reuse" in stages(again) and content(again) == content(first)
    file.write_text(text.replace('"own"', '"mine"'))
    changed = converted(model, tmp_path / "third", patterns=[file])
    assert "trace" in stages(changed) and "mine" in changed.report.blocks


def test_a_relinked_file_is_checked_like_any_other(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    names = [[check.name for check in converted(model, tmp_path / "out").report.checks] for _ in range(2)]
    assert names[0] == names[1] == ["rewrites", "constants", "file in the interpreter"]


@pytest.mark.parametrize(
    "options", [{"context": 17}, {"prefill": (5,)}, {"context": None}], ids=["context", "prefill", "default context"]
)
def test_other_lengths_are_compiled_anew(options: dict[str, Any], tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    converted(model, tmp_path / "first")
    assert "trace" in stages(converted(model, tmp_path / "second", **options))


@pytest.mark.parametrize(
    "overrides",
    [{"rms_norm_eps": 1e-3}, {"num_hidden_layers": 1}, {"rope_theta": 500.0}, {"tie_word_embeddings": True}],
    ids=lambda overrides: next(iter(overrides)),
)
def test_another_configuration_is_compiled_anew(overrides: dict[str, Any], tmp_path: Path) -> None:
    converted(save(tmp_path / "one"), tmp_path / "first")
    assert "trace" in stages(converted(save(tmp_path / "other", **overrides), tmp_path / "second"))


def cut_short(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-10])


def change_a_byte(entry: Path) -> None:
    damaged = bytearray(entry.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    entry.write_bytes(bytes(damaged))


def empty(entry: Path) -> None:
    entry.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, change_a_byte, empty])
def test_a_damaged_entry_is_noticed_and_made_again(damage: Callable[[Path], None], tmp_path: Path, cache: Path) -> None:
    model = save(tmp_path / "model")
    first = converted(model, tmp_path / "first")
    (entry,) = cache.glob("*.compiled")
    whole = entry.read_bytes()
    damage(entry)
    again = converted(model, tmp_path / "second")
    assert "trace" in stages(again) and content(again) == content(first)
    assert len(entry.read_bytes()) == len(whole)
    assert "reuse" in stages(converted(model, tmp_path / "third"))


def test_what_was_not_checked_is_not_kept(tmp_path: Path, cache: Path) -> None:
    converted(save(tmp_path / "model"), tmp_path / "out", verify="off")
    assert not cache.exists()


def test_no_cache_neither_reads_nor_writes(tmp_path: Path, cache: Path) -> None:
    model = save(tmp_path / "model")
    converted(model, tmp_path / "first", cache=False)
    assert not cache.exists()
    converted(model, tmp_path / "second")
    assert "trace" in stages(converted(model, tmp_path / "third", cache=False))


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    assert content(converted(save(tmp_path / "model"), tmp_path / "out"))


def settings() -> Settings:
    return choose(None, context=16, prefill=(4,), quantize="none", formats=("tflite",), verify="quick")


def test_a_key_knows_the_values_of_buffers(tmp_path: Path) -> None:
    source = load_source(save(tmp_path / "model"))
    before = key_of(source, settings())
    assert before == key_of(load_source(tmp_path / "model"), settings())
    assert isinstance(source.module, LlamaForCausalLM)
    source.module.model.rotary_emb.inv_freq.mul_(2)
    assert key_of(source, settings()) != before


def test_a_module_made_by_hand_has_no_key() -> None:
    assert key_of(load_source(build(llama())), settings()) is None


def test_a_key_knows_the_code_of_patterns_from_outside(tmp_path: Path) -> None:
    source, keys = load_source(save(tmp_path / "model")), set()
    for digests in ([], ["one"], ["other"], ["one", "other"]):
        keys.add(key_of(source, settings(), [Library("", (), digest) for digest in digests]))
    assert len(keys) == 4 and None not in keys
    assert key_of(source, settings(), [Library("made by hand", (), None)]) is None


def test_the_entries_that_were_not_used_for_longest_go_first(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(save(tmp_path / "model"), tmp_path / "out")
    (entry,) = cache.glob("*.compiled")
    compiled = load(entry.stem)
    assert compiled is not None
    monkeypatch.setattr("autoconvert.driver.cache._LARGEST_CACHE", int(2.5 * entry.stat().st_size))
    store("b", compiled)
    assert load(entry.stem) is not None
    store("c", compiled)
    assert {path.stem for path in cache_folder().iterdir()} == {entry.stem, "c"}
