"""Writes the pictures of the page that `inspect` makes: `python docs/write_pictures.py`; needs Chromium."""

import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

import autoconvert
from autoconvert.inspect.dump import read_dump
from autoconvert.inspect.page import page
from autoconvert.inspect.times import read_times

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "benchmarks"))
from browser import chromium  # noqa: E402

_SIZE = {"width": 1400, "height": 860}
# What each picture shows: a pass, and a node of it.
_SHOWN = {
    "inspect.png": {"pass": "fuse", "node": "model_layers_0_input_layernorm_rms_norm"},
    "inspect-file.png": {"pass": "decode in the file", "node": "model_layers_0_self_attn_BATCH_MATMUL"},
}


def main() -> None:
    """Converts the demo with a dump, and photographs its page."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        made = autoconvert.convert("demo", folder / "demo", dump=folder / "dump")
        shown = folder / "page.html"
        shown.write_text(page(read_dump(folder / "dump"), read_times(made.files["report"])), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name, state in _SHOWN.items():
            # Another address of the same file would only change what a page that is open shows.
            tab = browser.new_page(viewport=_SIZE)  # type: ignore[arg-type]
            tab.goto(f"{shown.as_uri()}#{urlencode(state)}")
            tab.locator(".node.chosen").wait_for()
            tab.screenshot(path=FOLDER / name)
            print(f"wrote {FOLDER / name}")
        browser.close()


if __name__ == "__main__":
    main()
