"""Every weight in a file, read back and compared with the tensor it was made of.

This reads the flatbuffer through the schema's accessors and shares no code with what wrote the file: of a weight's
encoding it asks how to decode what lies there, and how far a number may then be from its source.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert import schema_py_generated as schema

from autoconvert.check.stored import BUG, Constants, Stored
from autoconvert.errors import CheckFailed
from autoconvert.ir.weight import Weight
from autoconvert.quantization.encoding import Encoding, Numbers, largest_of_rows
from autoconvert.quantization.recipe import Recipe
from autoconvert.runtime.steps import known_name

_THREADS = 2
_CHUNK_ELEMENTS = 1 << 19

ReadRows = Callable[[int, int], torch.Tensor]


class SourceTensors(Protocol):
    """The checkpoint: tensors by name, whole or some rows of them, in the dtype of its files."""

    def read(self, name: str) -> torch.Tensor: ...

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor: ...


@dataclass(frozen=True)
class CheckedConstants:
    """What was compared: constants, and numbers in them.

    `absent` are weights that the file does not have, because no signature uses them.
    """

    constants: int
    numbers: int
    absent: tuple[str, ...]


def check_constants(
    path: Path,
    weights: Mapping[str, Weight],
    store: SourceTensors,
    recipe: Recipe,
    graphs: Iterable[bytes] | None = None,
) -> CheckedConstants:
    """Compare every weight in the file with its source, a few rows at a time.

    Every other constant must be one of those in `graphs`, the flatbuffers that were linked, where they are given: no
    text that is read reaches all rows of a table.
    Raises CheckFailed naming the weight, the row and the distance when a number is further from its source than its
    encoding allows, when a constant is stored in a way that `recipe` does not give it, or when a weight is still an
    input.
    """
    constants = Constants(path)
    lowered = None if graphs is None else {digest for graph in graphs for digest in _digests(graph)}
    _check_inputs(constants, weights)
    compared: set[tuple[object, ...]] = set()
    found: set[str] = set()
    numbers = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        for name, stored in constants.tensors.items():
            known = known_name(name, weights)
            if known is None:
                _refuse_unknown(stored)
                if lowered is not None and sha256(constants.content(stored)).digest() not in lowered:
                    raise CheckFailed(f"constant {stored.name!r} is in none of the graphs that were linked", hint=BUG)
                continue
            weight = weights[known]
            found.add(weight.name)
            encodings = _encodings_of(stored, weight, recipe)
            scales = None if stored.scales is None else stored.scales.tobytes()
            key = (weight.sources, id(weight.program), stored.offset, stored.tensor_type, scales)
            if key in compared:
                continue
            compared.add(key)
            read = _source_rows(weight, store)
            job = partial(_compare, constants, stored, encodings, weight, read)
            for _ in pool.map(lambda rows, job=job: job(*rows), _row_ranges(stored)):
                pass
            numbers += stored.rows * stored.columns
    return CheckedConstants(len(compared), numbers, tuple(name for name in weights if name not in found))


def _check_inputs(constants: Constants, weights: Mapping[str, Weight]) -> None:
    for signature, inputs in constants.signature_inputs.items():
        for name in inputs:
            if name in weights:
                raise CheckFailed(f"weight {name!r} is still an input of signature {signature!r}", hint=BUG)


def _refuse_unknown(stored: Stored) -> None:
    """Constants that the lowering made itself, such as tables, are exact: nothing else may be rounded."""
    if stored.scales is not None or stored.tensor_type == schema.TensorType.FLOAT16:
        raise CheckFailed(f"constant {stored.name!r} is quantized, and no weight is its source", hint=BUG)


def _digests(graph: bytes) -> Iterator[bytes]:
    """Of the constants that a flatbuffer holds."""
    model = schema.Model.GetRootAs(graph, 0)
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.DataLength():
            yield sha256(buffer.DataAsNumpy()).digest()


def _encodings_of(stored: Stored, weight: Weight, recipe: Recipe) -> list[Encoding]:
    """The encodings that `recipe` may give the weight and the file may have, which differ in how steps are chosen."""
    found = [encoding for encoding in recipe.encodings_of(weight.sources) if stored.may_be(encoding)]
    if not found or stored.shape != tuple(weight.shape):
        raise CheckFailed(f"constant {stored.name!r} is {stored} in a {recipe.name} file", hint=BUG)
    return found


def _row_ranges(stored: Stored) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK_ELEMENTS // max(1, stored.columns))
    for start in range(0, stored.rows, step):
        yield start, min(stored.rows, start + step)


def _source_rows(weight: Weight, store: SourceTensors) -> ReadRows:
    if weight.program is None and weight.shape:
        return partial(store.read_rows, weight.sources[0])
    with torch.no_grad():
        value = weight.evaluate(store.read)
    value = value.reshape(weight.shape or (1,))
    return lambda start, stop: value[start:stop]


def _compare(
    constants: Constants,
    stored: Stored,
    encodings: Sequence[Encoding],
    weight: Weight,
    read: ReadRows,
    start: int,
    stop: int,
) -> None:
    """Raise CheckFailed where one of these rows is further from its source than one of `encodings` allows."""
    encoding = encodings[0]
    source: Numbers = read(start, stop).to(torch.float32).reshape(stop - start, stored.columns).contiguous().numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        distance = constants.numbers(stored, encoding, start, stop)
        distance -= source
        scales = stored.scales_of_rows(encoding, start, stop)
        allowed = encoding.tolerance(source, scales)
        for other in encodings[1:]:
            # A step that one choice would not give, another may.
            allowed = np.fmax(allowed, other.tolerance(source, scales))
        right = _rows_within(distance, allowed)
    if right.all():
        return
    row = int(np.argmin(right))
    most = float(allowed[row].max())
    limit = "its scale is wrong" if np.isnan(most) else f"{encoding.name} allows {most:.6g}"
    raise CheckFailed(
        f"row {start + row} of constant {stored.name!r} lies {np.abs(distance[row]).max():.6g} from its source "
        f"{' and '.join(weight.sources)}, whose largest number there is {np.abs(source[row]).max():.6g}: {limit}",
        hint=BUG,
        at=weight.name,
    )


def _rows_within(distance: Numbers, allowed: Numbers) -> npt.NDArray[np.bool_]:
    """Which rows have no number beyond `allowed`, [rows, columns] or [rows, 1]; one that is NaN is beyond."""
    if allowed.shape[1] == 1:
        within: npt.NDArray[np.bool_] = largest_of_rows(distance) <= allowed[:, 0]
    else:
        within = np.all(np.abs(distance, out=distance) <= allowed, axis=1)
    return within
