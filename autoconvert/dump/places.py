"""Where a node comes from: its module, and the line of the model's code; no path of this machine in either."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import fx

from autoconvert.ir.provenance import WRITTEN, module_path
from autoconvert.report.folding import runs

_FRAME = re.compile(r'File "(.+?)", line (\d+)')
_PACKAGE = Path(__file__).parents[1]
_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(_PACKAGE))
# As many lines of code around one that a node names.
_AROUND = 4


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{relative(self.file)}:{self.line}"

    @property
    def short(self) -> str:
        """The line of the file by its name alone."""
        return str(self).rpartition("/")[2]


def module_of(node: fx.Node) -> str:
    """The path of the module that computed the node; "" for the model as a whole, and for what none did."""
    return module_path(node) or ""


def place_of(node: fx.Node) -> Place | None:
    """The innermost line of the model's own code, which neither PyTorch nor this compiler is."""
    frames = [Place(file, int(line)) for file, line in _FRAME.findall(node.meta.get("stack_trace") or "")]
    own = [frame for frame in frames if not frame.file.startswith(_NOT_THE_MODEL) and _is_file(frame.file)]
    return own[-1] if own else None


def written_at(node: fx.Node) -> Place | None:
    """The line of the pattern from outside that made the node."""
    file, _, rest = str(node.meta.get(WRITTEN, "")).partition(".py:")
    return Place(f"{file}.py", int(rest.partition(":")[0])) if rest and _is_file(f"{file}.py") else None


@cache
def _is_file(file: str) -> bool:
    # Code that was typed in has none, and what PyTorch makes of its own names one that is nowhere.
    return Path(file).is_file()


@cache
def relative(file: str) -> str:
    """The path of a source file below the folder that Python finds it in: `transformers/models/llama/…`."""
    path = Path(file)
    # The compiler's own folders lie beside its package as well.
    if path.is_relative_to(_PACKAGE):
        return path.relative_to(_PACKAGE).as_posix()
    roots = [Path(entry or ".").absolute() for entry in sys.path]
    inside = [path.relative_to(root) for root in roots if path.is_relative_to(root)]
    return min(inside, key=lambda part: len(part.parts)).as_posix() if inside else path.name


def without_paths(text: str) -> str:
    """`text` with every path of a Python file in it as `relative` has it."""
    return re.sub(r"/[^\s:\"'()]+\.py\b", lambda found: relative(found.group()), text)


def excerpts(places: Iterable[Place]) -> dict[str, list[list[object]]]:
    """The lines at `places` with some around, by relative file: pieces [number of the first line, text]."""
    wanted: dict[str, set[int]] = {}
    for place in places:
        wanted.setdefault(place.file, set()).update(range(place.line - _AROUND, place.line + _AROUND + 1))
    found: dict[str, list[list[object]]] = {}
    for file, numbers in wanted.items():
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        pieces = runs(sorted(n for n in numbers if 1 <= n <= len(lines)))
        found[relative(file)] = [[first, "\n".join(lines[first - 1 : last])] for first, last in pieces]
    return dict(sorted(found.items()))
