"""Writes docs/passes.md from the passes themselves: `python docs/write_passes.py`."""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from autoconvert.passes import specialize_shapes
from autoconvert.passes.pipeline import PASSES

Function = Callable[..., Any]

TARGET = Path(__file__).with_name("passes.md")

_INTRODUCTION = """# The passes

Written by `python docs/write_passes.py` from the passes themselves; do not edit.

A model is traced to a graph, and each pass rewrites the graph to one that computes the same and runs in PyTorch, in
this order. What a pass asks are analyses: they only read the graph. What it cannot prove it refuses, with exit code 3;
where a whole text was traced, the model's path for a single token is tried then.
"""


def document() -> str:
    """The text of docs/passes.md."""
    return "\n".join([_INTRODUCTION, *(line for section in _sections() for line in section)])


def functions() -> list[tuple[str, ModuleType, list[Function]]]:
    """Each pass with its module and the functions that do it; specialising comes after the others."""
    found: list[tuple[str, ModuleType, list[Function]]] = []
    for each in PASSES:
        name = each.name.replace("-", "_")
        module = importlib.import_module(f"autoconvert.passes.{name}")
        found.append((each.name, module, [getattr(module, name)]))
    return [*found, ("specialize-shapes", specialize_shapes, [specialize_shapes.specialize_shapes])]


def refusals(function: Function) -> list[str]:
    """What its docstring says under Raises of refusals, an entry a line."""
    _, _, raises = (inspect.getdoc(function) or "").partition("Raises:\n")
    entries = re.split(r"^    (?=\w+: )", raises, flags=re.MULTILINE)
    return [_text(entry) for entry in entries if entry.startswith(("Refused:", "Inseparable:"))]


def _sections() -> Iterator[list[str]]:
    for index, (name, module, does) in enumerate(functions()):
        file = Path(inspect.getfile(module)).name
        first, _, rest = (module.__doc__ or "").strip().partition("\n\n")
        lines = [f"## {index + 1}. {name}", "", _sentence(_text(first).partition(": ")[2]), ""]
        lines += [_text(paragraph) + "\n" for paragraph in rest.split("\n\n") if paragraph]
        for function in does:
            says = [
                paragraph for paragraph in (inspect.getdoc(function) or "").split("\n\n") if "Raises:" not in paragraph
            ]
            lines += [f"`{function.__name__}`: {_text(' '.join(says))}", ""]
        asked = "; ".join(f"*{analysis}* ({says})" for analysis, says in _analyses(module))
        refused = [entry.partition(": ")[2] for function in does for entry in refusals(function)]
        lines += [f"- asks: {asked or 'nothing'}", f"- refuses: {' '.join(refused) or 'nothing'}"]
        yield [*lines, f"- is in: [passes/{file}](../passes/{file})", ""]


def _analyses(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The analyses that a module imports, and what each says of itself."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoconvert.analysis."):
            analysis = importlib.import_module(str(node.module))
            sentence = _text((analysis.__doc__ or "").strip().partition("\n\n")[0]).rstrip(".")
            yield str(node.module).rpartition(".")[2].replace("_", " "), sentence


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(docstring: str) -> str:
    return " ".join(docstring.split())


if __name__ == "__main__":
    TARGET.write_text(document())
