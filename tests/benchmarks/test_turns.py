"""Peers are asked in turns, each in its own process; one that is missing or fails does not stop the others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runtime
import turns
import typer
from bandwidth import StepSizes
from peers.every import PEERS
from peers.peer import CACHE, Load, NotInstalled, Peer, PeerFailed, package_version, run, with_benchmarks
from speeds import Plan, Session

FIGURES = {"prefill": 400.0, "decode": 30.0, "first_token_seconds": 0.5, "load_seconds": 1.0}
SIZES = StepSizes(1000, ((8, None),))


def peer(name: str, program: str = f"print('warning'); print({json.dumps(json.dumps(FIGURES))})") -> Peer:
    def prepare(_checkpoint: Path, folder: Path, _place: Path | None, limit: int) -> None:
        (folder / "model.bin").write_text(str(limit))

    def command(file: Path, load: Load, _place: Path | None) -> list[str]:
        return [sys.executable, "-c", program, str(file), str(load.history)]

    return Peer(name, "int8", "*.bin", 8, 32, lambda _place: "1.0", prepare, command)


@pytest.fixture(autouse=True)
def memory_that_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "bytes_per_second", lambda _threads: 1e10)


def session(rounds: int = 1) -> Session:
    return Session("tiny", "today", "a machine", Plan((2, 4), rounds, threads=1))


def test_a_run_gives_what_the_process_prints_and_its_memory(tmp_path: Path) -> None:
    program = f"import time; time.sleep(0.3); print({json.dumps(json.dumps(FIGURES))})"
    figures = run(peer("one", program), tmp_path, Load(), None)
    assert (figures.prefill, figures.load_seconds) == (400, 1)
    assert figures.resident_bytes > 1_000_000


@pytest.mark.parametrize("program", ["print('no figures')", "print('{}')", "pass", "print('boom'); exit(3)"])
def test_a_run_without_figures_tells_how_it_ended(program: str, tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"figures|boom"):
        run(peer("one", program), tmp_path, Load(), None)


def test_a_program_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    missing = Peer("x", "", "*", 8, 8, str, lambda *_: None, lambda *_: [str(tmp_path / "nothing")])
    with pytest.raises(PeerFailed, match="cannot be run"):
        run(missing, tmp_path, Load(), None)


def test_every_round_asks_every_peer_at_every_history_and_saves(tmp_path: Path) -> None:
    taken, saves = session(rounds=2), []
    prepared = [(peer(name), tmp_path) for name in ("one", "two")]
    said = list(turns.take_turns(taken, prepared, {}, lambda: saves.append(len(taken.taken))))
    order = [(each.round, each.history, each.peer) for each in taken.taken]
    turns_taken = [(0, 2), (1, 2), (1, 4), (2, 2), (2, 4)]
    assert order == [(number, history, name) for number, history in turns_taken for name in ("one", "two")]
    assert saves == list(range(1, 11))
    assert said[0] == "tiny: one, 2 in, round 0 of 2"
    assert taken.bandwidths == [1e10] * 3


def test_a_peer_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    taken = session()
    prepared = [(peer("good"), tmp_path), (peer("bad", "exit(1)"), tmp_path)]
    for _ in turns.take_turns(taken, prepared, {}, lambda: None):
        pass
    assert {each.peer for each in taken.taken} == {"good"}
    assert taken.failed["bad"].startswith("with 2 tokens in: exit code 1")


def test_a_peer_that_is_not_installed_is_no_failure(tmp_path: Path) -> None:
    def version(_place: Path | None) -> str:
        return package_version("no-such-package-anywhere", None, "pip install it")

    absent = Peer("absent", "", "*", 8, 8, version, lambda *_: None, lambda *_: [])
    taken = session()
    assert turns.join(absent, taken, tmp_path, tmp_path, {}, SIZES) == []
    assert taken.absent == {"absent": "pip install it"}
    assert not taken.failed


def test_a_peer_joins_with_its_file_and_what_a_step_of_it_reads(tmp_path: Path) -> None:
    taken = session()
    ((_, file),) = turns.join(peer("one"), taken, tmp_path, tmp_path / "files", {}, SIZES)
    assert file == tmp_path / "files" / "one-4096" / "model.bin"
    # 1000 bytes of weights, and 8 elements of 4 bytes at each of 2 + 32 positions.
    assert taken.files[0].step_bytes[2] == 1000 + 8 * 4 * 34


def test_a_file_is_made_once_unless_its_converter_changes(tmp_path: Path) -> None:
    made = []

    def prepare(_checkpoint: Path, folder: Path, _place: Path | None, _limit: int) -> None:
        made.append(folder)
        (folder / "model.bin").write_text("weights")

    for changes, times in ((False, 1), (True, 3)):
        one = Peer("one", "", "*.bin", 8, 8, lambda _place: "1", prepare, lambda *_: [], changes=changes)
        for _ in range(2):
            file = turns.prepare_file(one, tmp_path, tmp_path / "files", None, 64)
            (file.parent / CACHE).mkdir()
        assert len(made) == times
    file = turns.prepare_file(one, tmp_path, tmp_path / "files", None, 64)
    assert list(file.parent.iterdir()) == [file]


def test_a_conversion_that_is_cut_short_leaves_no_file_to_be_taken(tmp_path: Path) -> None:
    def prepare(_checkpoint: Path, folder: Path, _place: Path | None, _limit: int) -> None:
        (folder / "model.bin").write_text("half of it")
        raise PeerFailed("no room")

    half = Peer("half", "", "*.bin", 8, 8, lambda _place: "1", prepare, lambda *_: [])
    taken = session()
    for _ in range(2):
        assert turns.join(half, taken, tmp_path, tmp_path / "files", {}, SIZES) == []
    assert taken.failed == {"half": "no room"}


def test_places_are_read_by_peer() -> None:
    assert runtime.places_of(["llama.cpp=/opt/node"]) == {"llama.cpp": Path("/opt/node")}
    for wrong in ("llama.cpp", "llama.cpp=", "nobody=/opt"):
        with pytest.raises(typer.BadParameter, match="not PEER=PATH"):
            runtime.places_of([wrong])


def test_names_are_checked_and_taken_once() -> None:
    assert runtime.chosen(None, ("a", "b"), ("b",), "--x") == ["b"]
    assert runtime.chosen(["a", "a"], ("a", "b"), ("b",), "--x") == ["a"]
    with pytest.raises(typer.BadParameter, match="c is none of a, b"):
        runtime.chosen(["c"], ("a", "b"), ("b",), "--x")


@pytest.mark.parametrize("each", PEERS, ids=lambda each: each.name)
def test_each_peer_says_what_to_type_where_it_is_not(each: Peer, tmp_path: Path) -> None:
    if each.name == "autoconvert":
        assert each.version(tmp_path / "nowhere")
        return
    with pytest.raises(NotInstalled, match="install"):
        each.version(tmp_path / "nowhere")


def test_the_schema_that_litert_torch_imports_is_lent_where_tensorflow_is_not() -> None:
    program = (
        "from importlib.util import find_spec\n"
        "from peers.export_with_litert_torch import SCHEMA, lend_schema\n"
        "lend_schema()\n"
        "from tensorflow.lite.python import schema_py_generated\n"
        "assert schema_py_generated.Model and find_spec('tensorflow') and find_spec(SCHEMA)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **with_benchmarks()})
