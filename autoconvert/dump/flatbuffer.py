"""What a TFLite file runs, as entries: its operations, the tensors that it holds, what a caller gives and gets.

An operation belongs to the module that the name of its first result begins with (`lowering/operation_names.py`). In
files of other converters such a name is a path, with or without `;` after the module.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autoconvert.dump.entry import Entry, Type, identifier, short_dtype
from autoconvert.lowering.flatbuffer import NO_TENSOR, names_by_code, signatures_by_subgraph
from autoconvert.lowering.operation_names import END, FRAME, NODE, ROOT, origin
from autoconvert.lowering.subgraph import Subgraph
from autoconvert.runtime.partitions import Partitions

_TYPES = names_by_code(schema.TensorType)
_ACTIVATIONS = names_by_code(schema.ActivationFunctionType)
_TENSOR_TYPES = frozenset({"inDataType", "outDataType", "outType", "quantizedBiasType"})
# Up to so many numbers a constant is shown whole.
_SHORT = 8


@dataclass(frozen=True)
class Held:
    """A constant's bytes in a file, by the number of the buffer, and the module that reads them."""

    buffer: int
    module: str
    dtype: str
    size: int


@dataclass(frozen=True)
class FileGraph:
    """A subgraph of a file: the key of the signature that calls it, or its own name where another subgraph does."""

    name: str
    is_signature: bool
    entries: tuple[Entry, ...]
    held: tuple[Held, ...]


def graphs_of(model: Any, partitions: Mapping[int, Partitions] = MappingProxyType({})) -> Iterator[FileGraph]:
    """Every subgraph of a `ModelT`, those of signatures first; `partitions` by the number of the subgraph."""
    signatures = signatures_by_subgraph(model)
    order = [*signatures, *(index for index in range(len(model.subgraphs)) if index not in signatures)]
    for index in order:
        yield _Reader(model, index, signatures.get(index), partitions.get(index)).graph()


class _Reader:
    """Reads one subgraph; `signature` names its ends."""

    def __init__(self, model: Any, index: int, signature: Any | None, partitions: Partitions | None) -> None:
        self._model, self._index, self._signature = model, index, signature
        self._partitions = partitions
        self._subgraph = model.subgraphs[index]
        self._described = Subgraph(model, self._subgraph)
        self._names: dict[str, int] = {}
        # The entry that gives each tensor, and the number of that result.
        self._made: dict[int, tuple[str, int]] = {}
        self._entries: list[Entry] = []
        self._results: dict[int, tuple[str, ...]] = {}
        self._held: list[Held] = []

    def graph(self) -> FileGraph:
        ends = self._signature
        for port in ends.outputs if ends is not None else ():
            index = int(port.tensorIndex)
            self._results[index] = (*self._results.get(index, ()), _text(port.name))
        self._inputs({int(port.tensorIndex): _text(port.name) for port in (ends.inputs if ends is not None else ())})
        modules = [self._module(operator) for operator in self._subgraph.operators or ()]
        self._constants(modules)
        for index, (operator, module) in enumerate(zip(self._subgraph.operators or (), modules, strict=True)):
            self._operation(operator, module, self._kernel(index))
        name = _text(self._subgraph.name) or f"subgraph {self._index}"
        if ends is not None:
            name = _text(ends.signatureKey) or name
        return FileGraph(name, ends is not None, tuple(self._entries), tuple(self._held))

    def _inputs(self, ports: Mapping[int, str]) -> None:
        for index in _indices(self._subgraph.inputs):
            name = self._unique(identifier(ports.get(index) or _text(self._tensor(index).name) or "input"))
            self._made[index] = name, 0
            self._entries.append(
                Entry(name, "input", "", "", (), (self._type(index),), results=self._results.get(index, ()))
            )

    def _constants(self, modules: list[str]) -> None:
        """Tensors that operators read and none makes."""
        made = {index for operator in self._subgraph.operators or () for index in _indices(operator.outputs)}
        readers: dict[int, set[str]] = {}
        for operator, module in zip(self._subgraph.operators or (), modules, strict=True):
            for index in _indices(operator.inputs):
                if index != NO_TENSOR and index not in made and index not in self._made:
                    readers.setdefault(index, set()).add(module)
        for index, read_by in readers.items():
            # `decode/model/layers/0#add_2;1` as a location, or a name of the weight's own.
            told = _text(self._tensor(index).name).partition(END)[0].rpartition("/")[2]
            _, node, of = told.partition(NODE)
            name = self._unique(identifier((f"{of}_constant" if node else told) or "constant"))
            self._made[index] = name, 0
            module = read_by.pop() if len(read_by) == 1 else ""
            if size := self._bytes(index):
                self._held.append(Held(self._tensor(index).buffer, module, _dtype(self._tensor(index).type), size))
            self._entries.append(
                Entry(
                    name,
                    "constant",
                    module,
                    "",
                    (),
                    (self._type(index),),
                    results=self._results.get(index, ()),
                    detail=self._contents(index),
                )
            )

    def _kernel(self, index: int) -> str:
        if self._partitions is None:
            return ""
        number = self._partitions[index]
        return "kernel of its own" if number is None else f"XNNPACK {number}"

    def _operation(self, operator: Any, module: str, kernel: str) -> None:
        operation = self._described.kind(operator)
        name = self._unique(identifier(f"{module}_{operation}" if module else operation))
        inputs, outputs = _indices(operator.inputs), _indices(operator.outputs)
        _, node = origin(_text(self._tensor(outputs[0]).name)) if outputs else ("", "")
        self._entries.append(
            Entry(
                name,
                operation,
                module,
                ", ".join([*map(self._operand, inputs), *self._options(operator)]),
                tuple(self._made[index] for index in inputs if index in self._made),
                tuple(map(self._type, outputs)),
                results=tuple(result for index in outputs for result in self._results.get(index, ())),
                size=sum(self._bytes(index) for index in inputs if index != NO_TENSOR),
                node_name=node,
                kernel=kernel,
            )
        )
        self._made.update((index, (name, number)) for number, index in enumerate(outputs))

    def _module(self, operator: Any) -> str:
        outputs = _indices(operator.outputs)
        if not outputs:
            return ""
        name = _text(self._tensor(outputs[0]).name).removeprefix(f"{_text(self._subgraph.name)}/")
        path, _ = origin(name) if END in name else (name.rpartition("/")[0], "")
        return "" if path in (FRAME, ROOT) else path.strip("/").replace("/", ".")

    def _operand(self, index: int) -> str:
        if index == NO_TENSOR:
            return "None"
        # Of a damaged file, an operand that nobody gives.
        name, _ = self._made.get(index, (f"tensor_{index}", 0))
        return f"%{name}"

    def _options(self, operator: Any) -> Iterator[str]:
        """The options that are not what the schema takes for granted."""
        for options in (operator.builtinOptions, operator.builtinOptions2):
            usual = vars(type(options)()) if options is not None else {}
            for key, value in vars(options).items() if options is not None else ():
                if np.array_equal(value, usual[key]) or value is None:
                    continue
                yield f"{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', key).lower()}={self._option(key, value)}"

    def _option(self, key: str, value: Any) -> str:
        if key == "fusedActivationFunction":
            return _ACTIVATIONS.get(value, str(value)).lower()
        if key in _TENSOR_TYPES:
            return _dtype(value)
        if key.lower().endswith("subgraphindex"):
            return repr(_text(self._model.subgraphs[value].name) or value)
        if isinstance(value, bytes):
            return repr(_text(value))
        if isinstance(value, np.ndarray):
            return str(value.tolist()) if value.size <= _SHORT else f"{value.size} numbers"
        return repr(value) if isinstance(value, int | float | bool | list) else type(value).__name__.removesuffix("T")

    def _contents(self, index: int) -> str:
        """How the numbers of a constant are stored, or which they are where they are few."""
        tensor = self._tensor(index)
        parts = [_encoding(tensor)]
        dtype = getattr(np, _TYPES.get(tensor.type, "").lower(), None)
        data = self._model.buffers[tensor.buffer].data
        if isinstance(data, np.ndarray) and dtype is not None and data.size % np.dtype(dtype).itemsize == 0:
            numbers = data.view(dtype)
            parts.append(str(numbers.tolist()) if numbers.size <= _SHORT else "")
        elif size := self._bytes(index):
            parts.append(f"{size} bytes")
        return ", ".join(filter(None, parts))

    def _bytes(self, index: int) -> int:
        """The bytes that the file holds for a tensor."""
        buffer = self._model.buffers[self._tensor(index).buffer]
        return int(buffer.size or (0 if buffer.data is None else len(buffer.data)))

    def _tensor(self, index: int) -> Any:
        return self._subgraph.tensors[index]

    def _type(self, index: int) -> Type:
        sizes = ("?" if size < 0 else str(size) for size in self._described.signature(index))
        return Type(_dtype(self._tensor(index).type), tuple(sizes))

    def _unique(self, base: str) -> str:
        self._names[base] = number = self._names.get(base, -1) + 1
        return self._unique(f"{base}_{number}") if number else base


def _indices(listed: Any | None) -> list[int]:
    """The numbers of a list that may be left out of a flatbuffer."""
    return [] if listed is None else [int(index) for index in listed]


def _encoding(tensor: Any) -> str:
    """How real numbers are told by those that are stored."""
    quantization = tensor.quantization
    if quantization is None:
        return ""
    if (details := quantization.details) is not None:
        return f"{_dtype(tensor.type)} in blocks of {getattr(details, 'blockSize', '?')}"
    scales = 0 if quantization.scale is None else len(quantization.scale)
    if not scales:
        return ""
    if scales == 1:
        return f"{_dtype(tensor.type)} with one scale"
    return f"{_dtype(tensor.type)} with {scales} scales along axis {quantization.quantizedDimension}"


def _dtype(code: int) -> str:
    """f32, bf16, i8, bool."""
    return short_dtype(_TYPES.get(code, f"type{code}").lower())


def _text(name: bytes | None) -> str:
    return "" if name is None else name.decode(errors="replace")
