"""The same graphs in Model Explorer, where it is installed."""

import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from autoconvert.dump.manifest import overlay_file
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
    # It takes ten files at most, but any number of graphs in one.
    graphs = [graph for stem in dump.graphs for graph in json.loads((folder / f"{stem}.json").read_bytes())["graphs"]]
    with TemporaryDirectory() as temporary:
        collection = Path(temporary) / "passes.json"
        collection.write_text(json.dumps({"label": dump.model, "graphs": graphs}), encoding="utf-8")
        overlays = [{"node_data_path": str(path.absolute())} for path in sorted(folder.glob(overlay_file("*")))]
        explorer.visualize(model_paths=[str(collection)], node_data=overlays)
