"""What a conversion needs is told from shapes, and what does not fit is refused before anything is begun."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from autoconvert.driver.convert import convert
from autoconvert.driver.needs import Parameter, file_size, needs_of, parameters_of, refuse_what_cannot_fit, why_not_run
from autoconvert.driver.settings import choose
from autoconvert.errors import MachineError
from autoconvert.quantization.recipes import RECIPES
from autoconvert.source.source import Source, load_source
from tests.source.tiny import build, llama

Memory = namedtuple("Memory", "available")
Disk = namedtuple("Disk", "free")


def source(**changes: object) -> Source:
    return load_source(build(llama(**changes)))


def parameters(source: Source) -> dict[str, Parameter]:
    return parameters_of(source, [name for name, _ in source.module.named_parameters(remove_duplicate=False)])


@pytest.mark.parametrize("recipe", ["none", "fp16", "int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_size_of_a_file_is_known_beforehand(recipe: str, tied: bool, tmp_path: Path) -> None:
    model = source(tie_word_embeddings=tied)
    stored = convert(
        build(llama(tie_word_embeddings=tied)), tmp_path, context=16, prefill=(4,), quantize=recipe, formats=("tflite",)
    ).report.bytes_by_dtype
    # Scales of blocks, two bytes for 32 numbers, are in a file once.
    scales = 2 * (2 * stored.get("int4", 0)) // 32
    assert file_size(parameters(model), RECIPES[recipe], signatures=0) == sum(stored.values()) + scales


def test_scales_are_in_each_signature() -> None:
    rows = sum(each.shape[0] for each in parameters(source()).values() if len(each.shape) == 2)
    one, two = (file_size(parameters(source()), RECIPES["int8"], signatures=count) for count in (1, 2))
    assert two - one == 4 * rows


@pytest.mark.parametrize("lacking", ["disk", "memory"])
def test_what_cannot_fit_is_refused_before_it_starts(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "memory":
        monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(10 << 20))
    else:
        monkeypatch.setattr("autoconvert.driver.needs.shutil.disk_usage", lambda _: Disk(1000))
    with pytest.raises(MachineError, match=rf"needs about .* of {lacking}"):
        convert(build(llama()), tmp_path / "out", context=16, prefill=(4,), formats=("tflite",))
    assert not (tmp_path / "out").exists()


def test_room_is_asked_of_the_disk_where_the_folder_will_be(tmp_path: Path) -> None:
    settings = choose(None, context=16, prefill=(4,), quantize="int8", formats=("tflite",), verify="quick")
    refuse_what_cannot_fit(needs_of(source(), settings), tmp_path / "not" / "yet" / "there")


@pytest.mark.parametrize("verify", ["quick", "full", "off"])
def test_a_file_is_run_only_where_its_weights_fit_among_the_temporary_files(
    verify: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = choose(None, context=16, prefill=(4,), quantize="int8", formats=("tflite",), verify=verify)
    needs = needs_of(source(), settings)
    monkeypatch.setattr("autoconvert.driver.needs.shutil.disk_usage", lambda place: Disk(needs.scratch))
    assert why_not_run(needs.scratch) == ""
    monkeypatch.setattr("autoconvert.driver.needs.shutil.disk_usage", lambda place: Disk(max(0, needs.scratch - 1)))
    assert (why_not_run(needs.scratch) == "") == (verify == "off")
    assert verify == "off" or why_not_run(needs.scratch).startswith("not run: needs ")
