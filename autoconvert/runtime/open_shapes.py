"""Shapes of what a `.tflite`'s signatures take and give, where the runtime tells only those of the last call."""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.errors import BROKEN
from autoconvert.runtime.failed import RuntimeFailed

# The size of an axis that each call decides.
OPEN = -1
Shapes = Mapping[str, tuple[int, ...]]


def open_shapes(path: Path) -> dict[str, tuple[Shapes, Shapes]]:
    """By signature, the shapes of those inputs and of those outputs that have an open axis, by name.

    Raises RuntimeFailed where the file is damaged: the runtime loads some of what cannot be read.
    """
    with _signatures(path) as (model, signatures):
        return {name: _ports(each, model.Subgraphs(each.SubgraphIndex())) for name, each in signatures.items()}


@contextmanager
def _signatures(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The model and its signatures by name, as long as the file is mapped."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = schema.Model.GetRootAs(data, 0)
            signatures = map(model.SignatureDefs, range(model.SignatureDefsLength()))
            yield model, {each.SignatureKey().decode(): each for each in signatures}
    except BROKEN as error:
        raise RuntimeFailed(f"the flatbuffer of {path} is broken: {error}", hint="Convert the model again.") from error


def _inputs(signature: Any) -> Iterator[Any]:
    return map(signature.Inputs, range(signature.InputsLength()))


def _ports(signature: Any, subgraph: Any) -> tuple[Shapes, Shapes]:
    outputs = map(signature.Outputs, range(signature.OutputsLength()))
    return dict(_opened(_inputs(signature), subgraph)), dict(_opened(outputs, subgraph))


def _opened(ports: Iterator[Any], subgraph: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for port in ports:
        tensor = subgraph.Tensors(port.TensorIndex())
        shape = tuple(int(tensor.ShapeSignature(axis)) for axis in range(tensor.ShapeSignatureLength()))
        if OPEN in shape:
            yield port.Name().decode(), shape


def rows_by_position(path: Path, positions: str) -> int | None:
    """How many rows the shortest table has that the input named `positions` looks up; None where there is none.

    Raises RuntimeFailed where the file is damaged.
    """
    with _signatures(path) as (model, signatures):
        return min((rows for each in signatures.values() for rows in _rows(model, each, positions)), default=None)


def _rows(model: Any, signature: Any, positions: str) -> Iterator[int]:
    subgraph = model.Subgraphs(signature.SubgraphIndex())
    looked_up_by = {port.TensorIndex() for port in _inputs(signature) if port.Name().decode() == positions}
    for operator in map(subgraph.Operators, range(subgraph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        is_lookup = schema.BuiltinOperator.EMBEDDING_LOOKUP in (code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if is_lookup and operator.Inputs(0) in looked_up_by:
            yield int(subgraph.Tensors(operator.Inputs(1)).Shape(0))
