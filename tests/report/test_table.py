"""What a person sees of stages while they run, and what a log keeps of them."""

import io

import pytest
from rich.console import Console

import autoconvert
from autoconvert.report.progress import Timeline
from autoconvert.report.table import Lines, LiveTable, display_on


def drawn(table: LiveTable) -> list[str]:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_running_stage_shows_how_far_it_is() -> None:
    table = LiveTable()
    table.started("lower")
    table.advanced("lower", 1, 3)
    table.started("link")
    table.advanced("link", 250_000_000, 1_000_000_000)
    lower, link = drawn(table)
    assert "lower" in lower
    assert lower.endswith("1 of 3")
    assert link.endswith("250 of 1,000 MB")
    assert link.count("━") == 24 * 250 // 1000


def test_a_finished_stage_shows_what_it_found() -> None:
    table = LiveTable()
    table.started("link")
    table.advanced("link", 1, 2)
    table.finished("link", 1.26, "5 MB, int8")
    assert [line.split() for line in drawn(table)] == [["✓", "link", "1.3", "s", "5", "MB,", "int8"]]


def test_a_failed_stage_is_marked_and_the_ones_before_stay() -> None:
    table = LiveTable()
    timeline = Timeline(table)
    with timeline.stage("trace") as stage:
        stage.note = "3 nodes"
    with pytest.raises(ValueError), timeline.stage("rewrite"):
        raise ValueError
    assert [line.split()[:2] for line in drawn(table)] == [["✓", "trace"], ["✗", "rewrite"]]


def test_a_log_gets_one_line_a_stage() -> None:
    log = Console(file=io.StringIO(), width=40)
    with display_on(log) as display:
        timeline = Timeline(display)
        with timeline.stage("link") as stage:
            stage.advance(1, 2)
            stage.note = "[9 tensors] in a note that is much longer than the console is wide"
        with pytest.raises(ValueError), timeline.stage("bundle"):
            raise ValueError
    assert isinstance(display, Lines)
    assert log.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        f"link                0.0 s  {stage.note}",
        "bundle             failed",
    ]


def test_a_terminal_gets_the_live_table() -> None:
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True)
    with display_on(terminal) as display, Timeline(display).stage("trace"):
        assert isinstance(display, LiveTable)
    assert "✓" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_python_shows_stages_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with autoconvert.display_on() as display, Timeline(display).stage("link") as stage:
        stage.note = "5 MB, int8"
    said = capsys.readouterr()
    assert (said.out, said.err.split()) == ("", ["link", "0.0", "s", "5", "MB,", "int8"])
