"""What the page of a dump weighs, and how soon it shows: `python benchmarks/inspect_page.py`; needs Chromium.

A checkpoint of a real shape with random weights is converted with `--dump`, down to the operations of the file. The
page is opened from the disk, each time in a new browser; what counts is the time until the first graph is on the
screen, as the median.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from browser import chromium
from checkpoints import SHAPES
from convert import make_checkpoint
from playwright.sync_api import Playwright, sync_playwright
from rich.console import Console

import autoconvert
from autoconvert.inspect.dump import read_dump
from autoconvert.inspect.page import page
from autoconvert.inspect.times import read_times
from autoconvert.report.readable import readable_size

CONTEXT = 1280


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "llama-3.2-1b",
    layers: Annotated[int | None, typer.Option(help="Fewer layers than the shape has, for a quick look.")] = None,
    rounds: Annotated[int, typer.Option(help="How often the page is opened.")] = 5,
    keep: Annotated[Path | None, typer.Option(help="A folder for checkpoint, file and dump.")] = None,
) -> None:
    """Measures the page of one shape."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = keep or Path(temporary)
        checkpoint = make_checkpoint(shape, layers, folder)
        made = autoconvert.convert(checkpoint, folder / "file", context=CONTEXT, dump=folder / "dump")
        dump = read_dump(folder / "dump")
        shown = folder / "page.html"
        shown.write_text(page(dump, read_times(made.files["report"])), encoding="utf-8")
        seconds = statistics.median(_shown_after(playwright, shown) for _ in range(rounds))
        size = readable_size(shown.stat().st_size)
    nodes = sum(len(graph) for graph in dump.graphs.values())
    console.print(f"{checkpoint.parent.name}: {len(dump.graphs)} graphs, {nodes:,} nodes")
    console.print(f"page: {size}, shown after {seconds:.2f} s (median of {rounds})")


def _shown_after(playwright: Playwright, path: Path) -> float:
    browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
    tab = browser.new_page(viewport={"width": 1400, "height": 860})
    begun = time.perf_counter()
    tab.goto(path.as_uri())
    tab.locator(".node").first.wait_for()
    seconds = time.perf_counter() - begun
    browser.close()
    return seconds


if __name__ == "__main__":
    typer.run(main)
