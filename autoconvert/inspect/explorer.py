"""The same graphs in Model Explorer, where it is installed."""

from importlib import import_module
from pathlib import Path

from autoconvert.errors import InputError
from autoconvert.inspect.dump import Dump


def open_model_explorer(folder: Path, dump: Dump) -> None:
    """Shows the graph after each pass in Model Explorer; returns when its server ends.

    Raises:
        InputError: it is not installed.
    """
    try:
        explorer = import_module("model_explorer")
    except ImportError:
        raise InputError(
            "Model Explorer is not installed.",
            hint="pip install ai-edge-model-explorer, or leave --model-explorer out: the page needs nothing more.",
        ) from None
    explorer.visualize(model_paths=[str(folder / f"{stem}.json") for stem in dump.graphs])
