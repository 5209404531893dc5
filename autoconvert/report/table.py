"""The stages of a conversion, as they happen: a live table on a terminal, otherwise a line each."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from autoconvert.report.progress import Display

# Stages whose progress is bytes written; the others count what they go through.
_IN_BYTES = frozenset({"read model", "link"})
_NAME_WIDTH = 16
_BAR_WIDTH = 24


@contextmanager
def display_on(console: Console | None = None) -> Iterator[Display]:
    """The display that fits `console`, standard error where none is given, for the time of a conversion."""
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    table = LiveTable()
    with Live(table, console=console, refresh_per_second=8):
        yield table


@dataclass(frozen=True)
class Lines:
    """Prints a line for each stage that ended."""

    console: Console

    def started(self, stage: str) -> None: ...

    def advanced(self, stage: str, done: int, total: int) -> None: ...

    def finished(self, stage: str, seconds: float, note: str) -> None:
        self._print(stage, f"{seconds:7.1f} s", note)

    def failed(self, stage: str) -> None:
        self._print(stage, "   failed", "")

    def _print(self, stage: str, time_taken: str, note: str) -> None:
        line = f"{stage:<{_NAME_WIDTH}}{time_taken}  {note}".rstrip()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Row:
    """A stage that is running until it has `seconds` or `failed`."""

    begun: float
    done: int = 0
    total: int = 0
    seconds: float | None = None
    note: str = ""
    failed: bool = False
    spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))


class LiveTable:
    """One row a stage: a mark, the name, progress or what was found, and the time it takes or took."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def started(self, stage: str) -> None:
        self._rows[stage] = _Row(time.perf_counter())

    def advanced(self, stage: str, done: int, total: int) -> None:
        self._rows[stage].done, self._rows[stage].total = done, total

    def finished(self, stage: str, seconds: float, note: str) -> None:
        self._rows[stage].seconds, self._rows[stage].note = seconds, note

    def failed(self, stage: str) -> None:
        row = self._rows[stage]
        row.seconds, row.failed = time.perf_counter() - row.begun, True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=1)
        table.add_column(width=_NAME_WIDTH - 1)
        table.add_column(width=8, justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        # The conversion adds rows while the display's thread draws them.
        for name, row in list(self._rows.items()):
            table.add_row(_mark(row), name, _seconds(row), _said(name, row))
        yield table


def _mark(row: _Row) -> Spinner | Text:
    if row.seconds is None:
        return row.spinner
    return Text("✗", style="bold red") if row.failed else Text("✓", style="green")


def _seconds(row: _Row) -> Text:
    running = row.seconds is None
    seconds = time.perf_counter() - row.begun if row.seconds is None else row.seconds
    return Text(f"{seconds:.1f} s", style="cyan" if running else "dim")


def _said(name: str, row: _Row) -> Table | Text:
    if row.seconds is not None or not row.total:
        return Text(row.note)
    done, total = (
        (f"{row.done / 1e6:,.0f}", f"{row.total / 1e6:,.0f} MB") if name in _IN_BYTES else (row.done, row.total)
    )
    progress = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=row.total, completed=row.done, width=_BAR_WIDTH)
    progress.add_row(bar, Text(f"{done} of {total}"))
    return progress
