"""A conversion that ends after a pass: the program and its dump up to there, and nothing else."""

from pathlib import Path

import pytest

import autoconvert
from autoconvert import ops
from autoconvert.driver.cache import FOLDER_VARIABLE
from autoconvert.driver.convert import convert
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import run_names
from tests.dump.dumped import Read
from tests.models import CONTEXT, Decoder, tiny_llama


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["canonicalize", "fuse", "canonicalize-3", "insert-scan-states"])
def test_it_ends_after_the_pass_with_a_whole_dump(name: str, tmp_path: Path) -> None:
    program = autoconvert.convert_until(Decoder(), name, tmp_path / "dump", context=CONTEXT)
    dump = Read(tmp_path / "dump")
    names = run_names(PASSES)
    assert [each["name"] for each in dump.manifest["passes"]] == ["trace", *names[: names.index(name) + 1]]
    stems = {each["file"] for each in dump.manifest["passes"] if each["file"]}
    endings = (".txt", ".py", ".graphml", ".json")
    assert {f"{stem}{ending}" for stem in stems for ending in endings} < {path.name for path in dump.folder.iterdir()}
    assert dump.manifest["passes"][-1]["nodes"] == len(program.graph.graph.nodes) - 1
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]
    (attention,) = (n for n in program.graph.graph.nodes if "attention" in str(n.target))
    assert (attention.target is ops.cached_attention) == (name == "insert-scan-states")


def test_the_program_of_a_signature_is_the_last_of_its_dump(tmp_path: Path) -> None:
    program = autoconvert.convert_until(Decoder(), "prefill_4", tmp_path / "dump", context=CONTEXT, prefill=(8, 4))
    names = [each["name"] for each in Read(tmp_path / "dump").manifest["passes"]]
    assert names == ["trace", *run_names(PASSES), "prefill_8", "prefill_4"]
    (tokens,) = program.graph.graph.find_nodes(op="placeholder", target="tokens")
    assert tokens.meta["val"].shape == (1, 4)


def test_a_dump_is_not_needed_for_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = autoconvert.convert_until(tiny_llama(num_hidden_layers=1), "fold-weights", context=CONTEXT)
    assert program.fusion.blocks["attention"] == 1
    assert not list(tmp_path.iterdir())


def test_what_was_not_finished_is_not_kept(cache: Path, tmp_path: Path) -> None:
    for name in ("fuse", "decode"):
        autoconvert.convert_until("demo", name, tmp_path / name, context=64, prefill=(16,))
    assert not cache.exists()
    bundle = convert("demo", tmp_path / "out", context=64, prefill=(16,), formats=("tflite",))
    assert "reuse" not in [stage.name for stage in bundle.report.stages]


@pytest.mark.parametrize("name", ["fuze", "canonicalize-5", "prefill_5", "trace"])
def test_an_unknown_name_is_bad_input_and_lists_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(autoconvert.InputError, match=f"no pass or signature {name} to stop after") as caught:
        autoconvert.convert_until(Decoder(), name, context=CONTEXT, prefill=(4,))
    assert all(known in caught.value.hint for known in (*run_names(PASSES), "prefill_", "decode"))


def test_what_is_refused_before_is_refused(tmp_path: Path) -> None:
    with pytest.raises(autoconvert.Refused):
        autoconvert.convert_until(Decoder(lambda _, x: x.flip(1)), "insert-kv-cache", tmp_path / "d", context=CONTEXT)
    assert not Read(tmp_path / "d").manifest["checks"][-1]["passed"]
