"""What a conversion needs of the machine, from the shapes of a model alone, and whether the machine has it."""

import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil

from autoconvert.driver.settings import Settings
from autoconvert.errors import MachineError
from autoconvert.quantization.expected_uses import expected_uses
from autoconvert.quantization.recipe import Recipe, Use
from autoconvert.report.readable import readable_size
from autoconvert.source.source import Source

# Of a float32 number: a weight before it is encoded, or a scale.
_NUMBER_BYTES = 4
# Measured with `python benchmarks/convert.py`: libraries in two processes, what graphs take for each tensor, and
# float32 copies of one tensor. A larger table is read in tiles.
_LIBRARIES = 1_300_000_000
_GRAPHS_PER_TENSOR = 400_000
_COPIES = 3
_LARGEST_WHOLE = 256 << 20


@dataclass(frozen=True)
class Needs:
    """What converting takes: bytes of disk while it runs, and of memory at most.

    `scratch` are bytes of the disk for temporary files: the runtime that checks a bundle keeps its weights there again.
    """

    disk: int
    memory: int
    scratch: int = 0


def needs_of(source: Source, settings: Settings) -> Needs:
    """What converting `source` takes, from shapes alone: no less than it turns out to be."""
    parameters = parameters_of(source, [name for name, _ in source.module.named_parameters()])
    file = file_size(parameters, settings.quantize, settings.signatures)
    shapes = [parameter.shape for parameter in parameters.values()]
    # Where a disk has no way to put room before the file, the bundle is a copy, and both are there for a moment.
    copies = 2 if "litertlm" in settings.formats else 1
    whole = [shape for shape in shapes if not _is_read_in_tiles(shape)]
    sizes = [min(_NUMBER_BYTES * prod(shape), _LARGEST_WHOLE) for shape in whole]
    graphs = _GRAPHS_PER_TENSOR * len(shapes)
    scratch = file if settings.verify != "off" else 0
    return Needs(disk=copies * file, scratch=scratch, memory=_LIBRARIES + graphs + _COPIES * max(sizes, default=0))


def _is_read_in_tiles(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and _NUMBER_BYTES * prod(shape) > _LARGEST_WHOLE


def refuse_what_cannot_fit(needs: Needs, folder: Path) -> None:
    """Raise MachineError where the disk of `folder`, or the memory, has less than a conversion needs."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    disk, memory = shutil.disk_usage(place).free, psutil.virtual_memory().available
    if disk < needs.disk:
        raise MachineError(
            f"Converting needs about {readable_size(needs.disk)} of disk, and {place} has {readable_size(disk)} left.",
            hint="Free some space, choose another -o, or a smaller --quantize.",
        )
    if memory < needs.memory:
        raise MachineError(
            f"Converting needs about {readable_size(needs.memory)} of memory, and {readable_size(memory)} are free.",
            hint="Close other programs, or use a machine with more memory.",
        )


def why_not_run(scratch: int) -> str:
    """Why what takes so many bytes for temporary files cannot be run: that, and what there is; empty where it can."""
    temporary = Path(tempfile.gettempdir())
    room = shutil.disk_usage(temporary).free
    if room >= scratch:
        return ""
    return f"not run: needs {readable_size(scratch)} of disk for temporary files, {temporary} has {readable_size(room)}"


@dataclass(frozen=True)
class Parameter:
    """Its shape, and what a graph is expected to use it for."""

    shape: tuple[int, ...]
    uses: frozenset[Use]


def parameters_of(source: Source, names: Collection[str]) -> dict[str, Parameter]:
    """These parameters, each once, by the first of its names."""
    parameters = dict(source.module.named_parameters(remove_duplicate=False))
    uses = expected_uses(source.module)
    first: dict[int, str] = {}
    for name in names:
        if name in parameters:
            first.setdefault(id(parameters[name]), name)
    return {name: Parameter(tuple(parameters[name].shape), uses[name]) for name in first.values()}


def file_size(parameters: Mapping[str, Parameter], recipe: Recipe, signatures: int) -> int:
    """Bytes of a `.tflite`, but for its operations: scales are in each signature, the rest is shared.

    How the graph uses a parameter is not known yet: one of several axes is taken for tables of rows.
    """
    size = 0
    for name, parameter in parameters.items():
        shape = parameter.shape
        table = (prod(shape[:-1]), shape[-1]) if len(shape) > 1 else shape
        encoding = recipe.encoding_of([name], parameter.uses, table)
        size += encoding.data_size(table) + encoding.scale_size(table, signatures)
    return size
