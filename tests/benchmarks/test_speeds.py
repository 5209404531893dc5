"""Medians, ratios and limits of a session, and what a results file keeps of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from peers.peer import Figures
from speed_page import render, write_page
from speed_table import speed_table
from speeds import (
    DECODE,
    FIRST_TOKEN,
    PREFILL,
    PeerFile,
    Plan,
    Session,
    Taken,
    first_load,
    median,
    of_limit,
    ratio,
    read_sessions,
    replaced,
    write_sessions,
)

PLAN = Plan(histories=(128, 1024), rounds=3)
RUN = Figures(400.0, 30.0, 0.5, 1.0, 2_000_000_000, 500_000_000)


def session(shape: str = "tiny", **other: float) -> Session:
    """Ours at 30 tokens a second and a peer at a third, on a machine that slows to half in the last round."""
    made = Session(shape, "2026-01-01 10:00", "a processor, 2 cores", PLAN)
    made.files = [
        PeerFile(name, "1.0", "int8", 140_000_000, {128: 2e8, 1024: 4e8}) for name in ("autoconvert", "litert-torch")
    ]
    made.bandwidths = [1e10, 1e10, 1e10, 5e9]
    for turn, history in PLAN.turns():
        slower = 2 if turn == 3 else 1
        ours = replace(RUN, decode=30 / slower, prefill=400 / slower, load_seconds=9 if turn == 0 else 1)
        made.taken.append(Taken("autoconvert", history, turn, ours))
        made.taken.append(Taken("litert-torch", history, turn, replace(ours, decode=10 / slower)))
    return made


def test_the_first_round_counts_only_for_the_first_load() -> None:
    taken = session()
    assert len(taken.of("autoconvert", 128)) == 3
    assert first_load(taken, "autoconvert") == 9
    assert median(taken, "autoconvert", 128, DECODE) == 30


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_ratios_are_of_rounds_so_that_a_slower_machine_does_not_show(lost: int) -> None:
    taken = session()
    taken.taken = [each for each in taken.taken if each.peer == "autoconvert" or each.round != lost]
    assert ratio(taken, "autoconvert", "litert-torch", 128, DECODE) == pytest.approx(3)


def test_without_figures_there_is_no_median_and_no_ratio() -> None:
    assert median(session(), "llama.cpp", 128, PREFILL) is None
    assert ratio(session(), "autoconvert", "llama.cpp", 128, FIRST_TOKEN) is None


def test_the_limit_is_what_the_round_s_memory_allows() -> None:
    # 10 GB/s over 0.2 GB a token are 50 tokens a second.
    assert of_limit(session(), "autoconvert", 128) == pytest.approx(0.6)
    assert of_limit(session(), "autoconvert", 1024) == pytest.approx(1.2)


def test_a_results_file_gives_back_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    assert read_sessions(file) == []
    sessions = [session(), session("other")]
    write_sessions(file, sessions)
    assert read_sessions(file) == sessions


def test_a_shape_measured_again_takes_its_own_place() -> None:
    first, second, again = session("a"), session("b"), session("a")
    assert [id(each) for each in replaced([first, second], again)] == [id(again), id(second)]
    assert replaced([first], second) == [first, second]


def test_a_session_is_complete_with_every_peer_that_did_not_fail_in_every_round() -> None:
    whole, cut_short, failed = session(), session(), session()
    del cut_short.taken[-1], failed.taken[-1]
    failed.failed["litert-torch"] = "died"
    assert [each.complete for each in (whole, cut_short, failed)] == [True, False, True]


def test_the_page_shows_figures_ratios_and_who_is_missing() -> None:
    taken = session()
    taken.taken[-1] = replace(taken.taken[-1], others=0.07)
    taken.absent["llama.cpp"] = "npm install"
    text = render([taken])
    assert "| 128 | autoconvert | 400 | 30.0 | 0.50 | 1.00 | 2.00 | 0.50 | 60% |" in text
    assert "| 1024 | litert-torch | 1.00 | 3.00 | 1.00 | 1.00 | 1.00 | 1.00 |" in text
    assert "| autoconvert | 1.0 | int8 | 0.140 | 9.00 |" in text
    assert "10.0 GB/s. Other processes took at most 7% of" in text
    assert "not measured: llama.cpp" in text


def test_the_page_is_written_of_complete_shapes_alone(tmp_path: Path) -> None:
    broken = session("cut-short")
    del broken.taken[5:]
    page, picture = write_page([session(), broken], tmp_path)
    assert "cut-short" not in page.read_text()
    once = picture.read_bytes()
    write_page([session(), broken], tmp_path)
    assert picture.read_bytes() == once
    with pytest.raises(ValueError, match="measured to its end"):
        write_page([broken], tmp_path)


def test_the_table_has_a_row_for_each_peer_at_each_history() -> None:
    assert speed_table(session(), "litert-torch").row_count == 4
