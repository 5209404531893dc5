"""A subgraph of a TFLite model, as what rewrites flatbuffers reads and extends it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering.flatbuffer import operator_code, operator_name

# In a shape of TFLite: known when the graph is run.
OPEN = -1


@dataclass(frozen=True)
class Subgraph:
    """The subgraph `subgraph` of the `ModelT` `model`; tensors are told by their numbers."""

    model: Any
    subgraph: Any

    @property
    def tensors(self) -> list[Any]:
        return list(self.subgraph.tensors)

    @property
    def operators(self) -> list[Any]:
        return list(self.subgraph.operators)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [() if each.shape is None else tuple(map(int, each.shape)) for each in self.subgraph.tensors]

    @property
    def readers(self) -> dict[int, list[tuple[Any, int]]]:
        """The operators that read each tensor, and as which operand."""
        readers: dict[int, list[tuple[Any, int]]] = defaultdict(list)
        for operator in self.subgraph.operators:
            for operand, index in enumerate(operator.inputs):
                readers[int(index)].append((operator, operand))
        return readers

    @property
    def makers(self) -> dict[int, Any]:
        """The operator that computes each tensor."""
        return {int(index): operator for operator in self.subgraph.operators for index in operator.outputs}

    def kind(self, operator: Any) -> str:
        """What it does, as the schema names it."""
        return operator_name(self.model, operator)

    def signature(self, tensor: int) -> tuple[int, ...]:
        """The shape, with OPEN where a call decides."""
        described = self.subgraph.tensors[tensor]
        shape = described.shape if described.shapeSignature is None else described.shapeSignature
        return () if shape is None else tuple(map(int, shape))

    def constant(self, tensor: int) -> bytes | None:
        data = self.model.buffers[self.subgraph.tensors[tensor].buffer].data
        return None if data is None else bytes(data)

    def add_tensor(self, shape: Sequence[int], dtype: int, name: bytes = b"") -> int:
        """A tensor that an operator is to compute; an axis is OPEN where a call decides, and 1 long until then."""
        least = np.array([1 if size == OPEN else size for size in shape], np.int32)
        tensor = schema.TensorT(shape=least, type=dtype, buffer=0, name=name)
        if OPEN in shape:
            tensor.shapeSignature = np.array(shape, np.int32)
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def add_constant(self, numbers: int | Sequence[int]) -> int:
        """A tensor that holds whole numbers."""
        values = np.asarray(numbers, np.int32)
        tensor = self.add_tensor(values.shape, schema.TensorType.INT32)
        # An empty constant, the shape of a scalar, has a buffer as well: without one it would count as computed.
        self.subgraph.tensors[tensor].buffer = len(self.model.buffers)
        self.model.buffers.append(schema.BufferT(data=values.reshape(-1).view(np.uint8)))
        return tensor

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: Any = None, version: int = 1) -> Any:
        """An operator that is in no list yet; `options` are those of the schema."""
        code = operator_code(self.model, getattr(schema.BuiltinOperator, kind), version)
        made = schema.OperatorT(opcodeIndex=code, inputs=list(inputs), outputs=[output])
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        return made

    def drop_unread(self) -> None:
        """Removes the operators whose results are no output and are read by none that stays."""
        read, kept = set(map(int, self.subgraph.outputs)), []
        for operator in reversed(self.subgraph.operators):
            if not read.isdisjoint(map(int, operator.outputs)):
                kept.append(operator)
                read.update(map(int, operator.inputs))
        self.subgraph.operators = kept[::-1]
