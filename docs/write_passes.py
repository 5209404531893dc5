"""Writes docs/passes.md from the passes themselves: `python docs/write_passes.py`."""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from autoconvert.analysis import invariants
from autoconvert.passes import outline_fixed_states, specialize_shapes
from autoconvert.passes.pipeline import PASSES
from autoconvert.rewrite.pass_manager import Pass

Function = Callable[..., Any]

TARGET = Path(__file__).with_name("passes.md")

_INTRODUCTION = """# The passes

Written by `python docs/write_passes.py` from the passes themselves; do not edit.

A model is traced to a graph, and each pass rewrites the graph to one that computes the same and runs in PyTorch, in
this order. What a pass asks are analyses: they only read the graph. What it cannot prove it refuses, with exit code 3;
where a whole text was traced, the model's path for a single token is tried then.

After each pass the program is verified: every operation stands after its operands, the recorded type of every value is
the one that PyTorch gives for the types of its operands, weights and states are inputs and outputs of their shapes, and
only a pass that says so changes the other inputs and the names of the outputs. What a pass ensures holds then, and on
until the pass that requires it. Anything else is a bug of the compiler, and is reported as one of that pass.
"""


def document() -> str:
    """The text of docs/passes.md."""
    return "\n".join([_INTRODUCTION, *(line for section in _sections() for line in section)])


def functions() -> list[tuple[str, ModuleType, list[Function]]]:
    """Each pass with its module and the functions that do it; those that make several programs of one come last."""
    found: list[tuple[str, ModuleType, list[Function]]] = []
    for each in dict.fromkeys(PASSES):
        name = each.name.replace("-", "_")
        module = importlib.import_module(f"autoconvert.passes.{name}")
        found.append((each.name, module, [getattr(module, name)]))
    return [
        *found,
        ("outline-fixed-states", outline_fixed_states, [outline_fixed_states.outline_fixed_states]),
        ("specialize-shapes", specialize_shapes, [specialize_shapes.specialize_shapes]),
    ]


def refusals(function: Function) -> list[str]:
    """What its docstring says under Raises of refusals, an entry a line."""
    _, _, raises = (inspect.getdoc(function) or "").partition("Raises:\n")
    entries = re.split(r"^    (?=\w+: )", raises, flags=re.MULTILINE)
    return [_text(entry) for entry in entries if entry.startswith(("Refused:", "Inseparable:"))]


def _sections() -> Iterator[list[str]]:
    declared = {each.name: each for each in PASSES}
    for index, (name, module, does) in enumerate(functions()):
        file = Path(inspect.getfile(module)).name
        first, _, rest = (module.__doc__ or "").strip().partition("\n\n")
        step = declared.get(name)
        summary = step.summary if step is not None else _sentence(_text(first).partition(": ")[2])
        lines = [f"## {index + 1}. {name}", "", summary, ""]
        lines += [_text(paragraph) + "\n" for paragraph in rest.split("\n\n") if paragraph]
        for function in does:
            says = [
                paragraph for paragraph in (inspect.getdoc(function) or "").split("\n\n") if "Raises:" not in paragraph
            ]
            lines += [f"`{function.__name__}`: {_text(' '.join(says))}", ""]
        asked = "; ".join(f"*{analysis}* ({says})" for analysis, says in _analyses(module))
        refused = [entry.partition(": ")[2] for function in does for entry in refusals(function)]
        lines += list(_declared(step)) if step is not None else []
        lines += [f"- asks: {asked or 'nothing'}", f"- refuses: {' '.join(refused) or 'nothing'}"]
        yield [*lines, f"- is in: [passes/{file}](../passes/{file})", ""]


def _declared(step: Pass) -> Iterator[str]:
    """What a pass says of itself beside its summary, and where it stands again."""
    after = [before.name for before, each in pairwise(PASSES) if each is step]
    if len(after) > 1 or (after and step is PASSES[0]):
        yield f"- runs again after: {', '.join(after)}, where that changed the graph"
    for role, facts in (("requires", step.requires), ("ensures", step.ensures)):
        yield f"- {role}: {'; '.join(invariant.name for invariant in facts) or 'nothing'}"
    if step.changes_ports:
        yield "- changes the inputs or outputs that are no weights"


def _analyses(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The analyses that a module imports, and what each says of itself."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoconvert.analysis."):
            if node.module == invariants.__name__:
                continue
            analysis = importlib.import_module(str(node.module))
            sentence = _text((analysis.__doc__ or "").strip().partition("\n\n")[0]).rstrip(".")
            yield str(node.module).rpartition(".")[2].replace("_", " "), sentence


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(docstring: str) -> str:
    return " ".join(docstring.split())


if __name__ == "__main__":
    TARGET.write_text(document())
