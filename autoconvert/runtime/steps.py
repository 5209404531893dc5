"""A signature of a `.tflite` as steps: operations that read a weight, and the pieces between them, each a small file.

So the runtime's own kernels run all that has no weights, and weights can come from elsewhere, a few rows at a time.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import get_builtin_code_from_operator_code

from autoconvert.lowering.flatbuffer import mapped_model, renumber_called, write_model
from autoconvert.lowering.known_sizes import known_sizes
from autoconvert.lowering.subgraph import Subgraph

Array = npt.NDArray[Any]

_DTYPES: dict[int, type[np.generic]] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.BOOL: np.bool_,
}


@dataclass(frozen=True)
class Product:
    """FULLY_CONNECTED: the tensor `x` times the transpose of `weight`, plus `bias`, then the schema's `activation`."""

    x: int
    weight: str
    bias: int | None
    activation: int
    output: int


@dataclass(frozen=True)
class Rows:
    """EMBEDDING_LOOKUP: the rows of `weight` that the tensor `indices` names."""

    indices: int
    weight: str
    output: int


@dataclass(frozen=True)
class Piece:
    """Operations in a row, whose `inputs` and `outputs` are tensors of the signature.

    Pieces with equal `key`s compute the same of their inputs.
    """

    key: tuple[Any, ...]
    operators: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


Step = Product | Rows | Piece


@dataclass(frozen=True)
class Stepped:
    """A signature: `inputs` and `outputs` are tensors by name, `weights` names by tensor.

    `last_use` says which step is the last to read or make a tensor; none is where the signature gives it and it is no
    state.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    weights: Mapping[int, str]
    steps: tuple[Step, ...]
    last_use: Mapping[int, int]
    subgraph: Any

    @cached_property
    def ports(self) -> dict[int, str]:
        """The names of the inputs by tensor."""
        return {tensor: port for port, tensor in self.inputs.items()}

    @cached_property
    def state_outputs(self) -> frozenset[int]:
        """The tensors that are states as the signature leaves them."""
        return frozenset(tensor for port, tensor in self.outputs.items() if port in self.inputs)

    def shape(self, tensor: int) -> tuple[int, ...]:
        """OPEN where each call decides how long an axis is."""
        return _open_shape(self.subgraph.tensors[tensor])

    def dtype(self, tensor: int) -> type[np.generic]:
        return _DTYPES[self.subgraph.tensors[tensor].type]


def reads(step: Step) -> tuple[int, ...]:
    """The tensors that a step reads."""
    match step:
        case Piece():
            return step.inputs
        case Product():
            return (step.x,) if step.bias is None else (step.x, step.bias)
        case Rows():
            return (step.indices,)


def makes(step: Step) -> tuple[int, ...]:
    """The tensors that a step computes."""
    return step.outputs if isinstance(step, Piece) else (step.output,)


class SteppedFile:
    """A file whose `signatures` are taken apart; `weights` are the names of constants that count as weights."""

    def __init__(self, path: Path, weights: Collection[str]) -> None:
        self._path = path
        self._model = mapped_model(path)
        self.signatures = {
            entry.signatureKey.decode(): self._stepped(entry, self._model.subgraphs[entry.subgraphIndex], weights)
            for entry in self._model.signatureDefs
        }

    def constant(self, signature: Stepped, tensor: int) -> Array | None:
        """What the file holds for a tensor, as it is stored; None where it holds nothing."""
        return self._held(signature.subgraph.tensors[tensor])

    def _held(self, described: Any) -> Array | None:
        buffer, dtype = self._model.buffers[described.buffer], _DTYPES.get(described.type)
        if dtype is not None and buffer.size:
            return np.memmap(self._path, dtype, "r", buffer.offset, _shape(described))
        # An empty buffer is the shape of a scalar, say: only the first one stands for "no data".
        if dtype is None or described.buffer == 0 or buffer.data is None:
            return None
        values: Array = np.asarray(buffer.data, np.uint8).view(dtype).reshape(_shape(described))
        return values

    def file_of(self, signature: Stepped, piece: Piece) -> bytes:
        """The piece as a `.tflite` of its own, inputs and outputs in their order; weights are float32."""
        buffers: list[Any] = [schema.BufferT()]
        local = _numbered(piece.operators)
        copies: list[Any] = []
        for index in local:
            tensor = signature.subgraph.tensors[index]
            value = None if index in signature.weights or index in piece.inputs else self._held(tensor)
            copies.append(_copied(tensor, value, buffers, b"%d" % len(copies)))
            if index in signature.weights:
                copies[-1].type = schema.TensorType.FLOAT32
        called: dict[int, int] = {}
        subgraph = schema.SubGraphT(
            tensors=copies,
            inputs=[local[index] for index in piece.inputs],
            outputs=[local[index] for index in piece.outputs],
            operators=[_calling(_renumbered(operator, local), called) for operator in piece.operators],
            name=b"main",
        )
        subgraphs = [subgraph, *self._called(called, buffers)]
        codes = self._model.operatorCodes
        model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=subgraphs, buffers=buffers, description=b"")
        return write_model(model)

    def _called(self, called: dict[int, int], buffers: list[Any]) -> Iterator[Any]:
        """Copies of the subgraphs that are called, in the order of `called`, which grows by those that they call."""
        done = 0
        while done < len(called):
            source = self._model.subgraphs[list(called)[done]]
            copy = schema.SubGraphT(**vars(source))
            copy.tensors = [_copied(tensor, self._held(tensor), buffers, tensor.name) for tensor in source.tensors]
            copy.operators = [_calling(schema.OperatorT(**vars(operator)), called) for operator in source.operators]
            yield copy
            done += 1

    def _stepped(self, entry: Any, subgraph: Any, known: Collection[str]) -> Stepped:
        weights = {
            index: name
            for index, tensor in enumerate(subgraph.tensors)
            if self._model.buffers[tensor.buffer].size and (name := known_name(tensor.name.decode(), known)) is not None
        }
        steps = tuple(self._steps(subgraph, weights))
        inputs, outputs = (
            {port.name.decode(): int(port.tensorIndex) for port in ports} for ports in (entry.inputs, entry.outputs)
        )
        kept = {tensor for port, tensor in outputs.items() if port not in inputs}
        uses = ((tensor, number) for number, step in enumerate(steps) for tensor in (*reads(step), *makes(step)))
        last_use = {tensor: number for tensor, number in uses if tensor not in kept}
        return Stepped(inputs, outputs, weights, steps, last_use, subgraph)

    def _steps(self, subgraph: Any, weights: dict[int, str]) -> Iterator[Step]:
        """The steps in order; adds to `weights` what widens one."""
        last_read: dict[int, float] = {
            int(index): number for number, operator in enumerate(subgraph.operators) for index in operator.inputs
        }
        last_read.update({int(index): inf for index in subgraph.outputs})
        computed = {int(index) for operator in subgraph.operators for index in operator.outputs}
        computed |= {int(index) for index in subgraph.inputs}

        sizes = known_sizes(Subgraph(self._model, subgraph))

        def piece(operators: Sequence[Any], end: int) -> Piece:
            # Each piece computes for itself the sizes that it must know before it is run.
            operators = [*_needed(operators, sizes), *operators]
            made = {int(index) for operator in operators for index in operator.outputs}
            tensors = _numbered(operators)
            inputs = tuple(i for i in tensors if i not in made and (i in computed or i in weights))
            outputs = tuple(i for i in tensors if i in made - sizes.keys() and last_read.get(i, -1) >= end)
            facts = [(_description(operator), _tensors_of(operator, tensors)) for operator in operators]
            types = [_type_key(subgraph.tensors[i], i in inputs) for i in tensors]
            ends = tuple(tuple(tensors[i] for i in indices) for indices in (inputs, outputs))
            return Piece((*facts, *types, *ends), tuple(operators), inputs, outputs)

        codes = [self._code(operator) for operator in subgraph.operators]
        widened = {
            int(operator.inputs[0]): int(operator.outputs[0])
            for operator, code in zip(subgraph.operators, codes, strict=True)
            if code == schema.BuiltinOperator.DEQUANTIZE
        }
        narrow_rows: set[int] = set()
        run: list[Any] = []
        for number, (operator, code) in enumerate(zip(subgraph.operators, codes, strict=True)):
            source = int(operator.inputs[0])
            if code == schema.BuiltinOperator.DEQUANTIZE and (source in weights or source in narrow_rows):
                # What the runtime widens before its use is the weight itself, or are its rows.
                if source in weights:
                    weights[int(operator.outputs[0])] = weights[source]
                continue
            if int(operator.outputs[0]) in sizes:
                continue
            step = _weight_step(code, operator, weights)
            if isinstance(step, Rows) and step.output in widened:
                narrow_rows.add(step.output)
                step = replace(step, output=widened[step.output])
            if step is None:
                run.append(operator)
                continue
            if run:
                yield piece(run, number)
                run = []
            yield step
        if run:
            yield piece(run, len(subgraph.operators))

    def _code(self, operator: Any) -> int:
        return int(get_builtin_code_from_operator_code(self._model.operatorCodes[operator.opcodeIndex]))


def _needed(operators: Sequence[Any], sizes: Mapping[int, Any]) -> list[Any]:
    """Of the operators that compute `sizes` those that others need, in their order."""
    read = {int(index) for operator in operators for index in operator.inputs}
    needed: list[Any] = []
    for size, operator in reversed(list(sizes.items())):
        if size in read:
            needed.append(operator)
            read.update(map(int, operator.inputs))
    return needed[::-1]


def _weight_step(code: int, operator: Any, weights: Mapping[int, str]) -> Step | None:
    operands = [int(index) for index in operator.inputs]
    output = int(operator.outputs[0])
    if len(operands) < 2 or operands[1] not in weights:
        return None
    if code == schema.BuiltinOperator.EMBEDDING_LOOKUP:
        return Rows(operands[0], weights[operands[1]], output)
    if code == schema.BuiltinOperator.FULLY_CONNECTED and operands[0] not in weights:
        bias = operands[2] if len(operands) > 2 and operands[2] >= 0 else None
        return Product(operands[0], weights[operands[1]], bias, operator.builtinOptions.fusedActivationFunction, output)
    return None


def known_name(name: str, known: Collection[str]) -> str | None:
    """The weight that a tensor of this name is: merged signatures put their own name before one that is taken."""
    return next((candidate for candidate in (name, name.rsplit("/", 1)[-1]) if candidate in known), None)


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _open_shape(tensor: Any) -> tuple[int, ...]:
    return _shape(tensor) if tensor.shapeSignature is None else tuple(map(int, tensor.shapeSignature))


def _numbered(operators: Sequence[Any]) -> dict[int, int]:
    """The tensors of operators, numbered in the order in which they come."""
    indices = (int(index) for operator in operators for index in (*operator.inputs, *operator.outputs))
    return {index: number for number, index in enumerate(dict.fromkeys(i for i in indices if i >= 0))}


def _tensors_of(operator: Any, local: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(local.get(int(index), -1) for index in (*operator.inputs, len(operator.inputs), *operator.outputs))


def _type_key(tensor: Any, is_input: bool) -> tuple[Any, ...]:
    return _open_shape(tensor), int(tensor.type), None if is_input else int(tensor.buffer)


def _description(operator: Any) -> tuple[Any, ...]:
    """What an operator does, apart from its tensors."""
    options = (operator.builtinOptions, operator.builtinOptions2)
    custom = None if operator.customOptions is None else bytes(operator.customOptions)
    return int(operator.opcodeIndex), custom, *(None if o is None else repr(sorted(vars(o).items())) for o in options)


def _renumbered(operator: Any, local: Mapping[int, int]) -> Any:
    copy = schema.OperatorT(**vars(operator))
    copy.inputs = [local.get(int(index), -1) for index in operator.inputs]
    copy.outputs = [local[int(index)] for index in operator.outputs]
    copy.intermediates = None
    return copy


def _copied(tensor: Any, value: Array | None, buffers: list[Any], name: bytes) -> Any:
    """A tensor of another file, which holds `value` in a new one of its `buffers`, or nothing."""
    copy = schema.TensorT(shape=tensor.shape, type=tensor.type, name=name, buffer=0)
    copy.shapeSignature = tensor.shapeSignature
    copy.hasRank = tensor.hasRank
    if value is not None:
        copy.buffer, copy.quantization = len(buffers), tensor.quantization
        buffers.append(schema.BufferT(data=np.frombuffer(value.tobytes(), np.uint8)))
    return copy


def _calling(operator: Any, called: dict[int, int]) -> Any:
    """An operator of a file whose subgraph 0 is a piece: what it calls is numbered from 1 on, and `called` knows."""
    renumber_called(operator, lambda index: called.setdefault(index, len(called) + 1))
    return operator
