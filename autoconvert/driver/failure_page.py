"""The page that says to a person what a failed check has left, and how to use it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from autoconvert.driver.failure import MANIFEST, MODEL, Failure
from autoconvert.source.likeness import BUFFERS, WEIGHTS

PAGE = "README.md"
GRAPH = "graph"
PATTERNS = "patterns"
CODE = "code"

_IN_PYTHON = {
    "quantize": "the recipe that it was converted with is an object of Python",
    "patterns": "some of its patterns are objects of Python",
}


def command(folder: Path, failure: Failure) -> str:
    """The command line that reproduces what a failed check has left in `folder`."""
    words = ["autoconvert", "reproduce", str(folder)]
    if failure.needs_model and failure.model is None:
        words.append("MODEL")
    if failure.runs_code:
        words.append("--trust-remote-code")
    return shlex.join(words)


def page(failure: Failure, files: Sequence[str]) -> str:
    """Markdown; `files` are the names in the folder of all others."""
    fault = failure.fault
    where = {"Stage": fault.check, "To blame": fault.blamed, "Operation": fault.at, "Line": fault.line}
    parts = [
        f"# A failed check of {failure.name}",
        "\n".join(f"    {line}" for line in fault.message.splitlines()),
        "\n".join(f"- {what}: `{said}`" for what, said in where.items() if said),
        "## To make it fail again",
        f"    {command(Path('FOLDER'), failure)}",
        "FOLDER is this one, wherever it lies. The exit code is 4 where it fails as before or in another way, which "
        "the output says, and 0 where it no longer fails. `--dump DIR` also writes what each pass does.",
        _needs(failure),
        *([_runs_code(failure)] if failure.runs_code else []),
        *([_by_hand(failure)] if failure.by_hand else []),
        "## What is here",
        "\n".join(_contents(failure, files)),
        "## Versions",
        ", ".join(f"{name} {number}" for name, number in failure.versions.items()),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _needs(failure: Failure) -> str:
    if not failure.needs_model:
        return (
            "No weights are needed. It fails with random ones in their place, which have the mean and the spread of "
            "each of the model's tensors and are the same on every machine; so this folder says nothing else of them."
        )
    begin = f"The model itself is needed: {failure.needs_model}."
    if failure.model is not None:
        at = f" at revision {failure.revision}" if failure.revision else ""
        return (
            f"{begin} Name its folder behind FOLDER; without one it is looked for where it was, `{failure.model}`{at}."
        )
    return (
        f"{begin} It was a module in memory. In Python, with the module at hand, "
        f"`autoconvert.reproduce(FOLDER, module)`; or behind FOLDER the folder of a model that `save_pretrained` wrote."
    )


def _runs_code(failure: Failure) -> str:
    return f"It runs Python code that lies in `{MODEL}` and `{PATTERNS}`: read that before you allow it."


def _by_hand(failure: Failure) -> str:
    said = "; ".join(_IN_PYTHON[name] for name in failure.by_hand)
    arguments = ", ".join(f"{name}=…" for name in failure.by_hand)
    return f"No file can hold all of it: {said}. In Python, `autoconvert.reproduce(FOLDER, {arguments})` takes them."


def _contents(failure: Failure, files: Sequence[str]) -> list[str]:
    graphs = [file for file in files if file.startswith(f"{GRAPH}/")]
    around = dict(zip(graphs, ("before what is to blame", f"after {failure.fault.blamed}"), strict=False))
    rows = {
        MODEL: "configuration, and as far as they matter tokenizer and code, as the model has them",
        f"{MODEL}/{WEIGHTS}": "the shape, the mean and the spread of each of the model's tensors",
        f"{MODEL}/{BUFFERS}": "constants that the configuration does not give",
        CODE: "the files of the module's own classes, to be read",
        PATTERNS: "the patterns that were given",
        **{file: f"the graph {which}" for file, which in around.items()},
        MANIFEST: "all of this as data, with the settings",
    }
    return [
        f"- `{name}`: {said}" for name, said in rows.items() if any(f"{file}/".startswith(f"{name}/") for file in files)
    ]
