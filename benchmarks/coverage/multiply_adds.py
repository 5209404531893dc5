"""Multiply-adds of a signature, read from the shapes in a flatbuffer, and how they grow with the context."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Shape = tuple[int, ...]

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
# Through these a product may read a state: they move values or write new ones among them, but do not multiply.
_PASSES_STATE_ON = frozenset(
    {"DYNAMIC_UPDATE_SLICE", "CONCATENATION", "SLICE", "STRIDED_SLICE", "GATHER", "GATHER_ND", "SELECT", "SELECT_V2"}
    | {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "TRANSPOSE", "BROADCAST_TO", "TILE", "PACK", "CAST", "ADD", "MUL"}
)
# Through these, a product may read scores, which a product with a state gave: weights of heads, in an indexer of keys.
_PASSES_ON = _PASSES_STATE_ON | {"RELU"}


@dataclass(frozen=True)
class Product:
    """One operation that multiplies: what it is, how often, and whether it reads a state as it was kept."""

    name: str
    multiply_adds: int
    reads_state: bool


@dataclass(frozen=True)
class Growth:
    """Multiply-adds of decode at two contexts; `elsewhere` are operations that grow and should not."""

    smaller: int
    larger: int
    elsewhere: tuple[str, ...]

    @property
    def only_in_attention(self) -> bool:
        return not self.elsewhere


def products(model: Any, signature: str) -> list[Product]:
    """Every multiplying operation of a signature of a `ModelT`, those in subgraphs that it calls included."""
    index, entries = next(
        (s.subgraphIndex, s.inputs) for s in model.signatureDefs if s.signatureKey.decode() == signature
    )
    states = {int(e.tensorIndex) for e in entries if e.name.decode() not in {"tokens", "input_pos", "mask"}}
    return list(_of_subgraph(model, index, states))


def model_of(data: bytes) -> Any:
    """The `ModelT` of a flatbuffer; what its buffers hold is left where it is."""
    return schema.ModelT.InitFromPackedBuf(bytearray(data), 0)


def growth(smaller: Sequence[Product], larger: Sequence[Product], ratio: float) -> Growth:
    """Compares a signature at two contexts, one `ratio` times the other, operation by operation.

    An operation may grow only where it multiplies with a state or with scores, and no faster than the context: those
    are the scores and the values of attention.
    """
    total = (sum(p.multiply_adds for p in smaller), sum(p.multiply_adds for p in larger))
    if [p.name for p in smaller] != [p.name for p in larger]:
        return Growth(*total, (f"{len(larger)} operations instead of {len(smaller)}",))
    elsewhere = [
        f"{after.name} {before.multiply_adds} → {after.multiply_adds}"
        for before, after in zip(smaller, larger, strict=True)
        if after.multiply_adds > before.multiply_adds
        and not (after.reads_state and after.multiply_adds <= ratio * before.multiply_adds)
    ]
    return Growth(*total, tuple(dict.fromkeys(elsewhere)))


def _of_subgraph(model: Any, index: int, states: set[int]) -> Iterator[Product]:
    subgraph = model.subgraphs[index]
    shapes = [tuple(int(size) for size in (t.shape if t.shape is not None else ())) for t in subgraph.tensors]
    from_state = set(states)
    capacities = {shapes[i][2] for i in states if i < len(shapes) and len(shapes[i]) == 4}
    for operator in subgraph.operators:
        name = _name(model, operator)
        inputs = [int(i) for i in operator.inputs if i >= 0]
        reads_state = any(i in from_state for i in inputs)
        if count := _COUNTS.get(name):
            made = shapes[int(operator.outputs[0])]
            yield Product(name, count(operator.builtinOptions, [shapes[i] for i in inputs], made), reads_state)
            if reads_state and made[-1] in capacities:
                from_state.update(int(i) for i in operator.outputs)
        elif reads_state and name in _PASSES_ON:
            from_state.update(int(i) for i in operator.outputs)
        for called in _called(operator):
            inner = {
                int(inside)
                for outside, inside in zip(operator.inputs, model.subgraphs[called].inputs, strict=False)
                if outside in from_state
            }
            yield from _of_subgraph(model, called, inner)


def _name(model: Any, operator: Any) -> str:
    code = flatbuffer_utils.get_builtin_code_from_operator_code(model.operatorCodes[operator.opcodeIndex])
    return _NAMES.get(code, str(code))


def _called(operator: Any) -> Iterator[int]:
    for options in (operator.builtinOptions, operator.builtinOptions2):
        for field, value in vars(options).items() if options is not None else ():
            if "subgraph" in field.lower() and isinstance(value, int) and value >= 0:
                yield value


def _fully_connected(_: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[1][-1]


def _batch_matmul(options: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-2 if options.adjX else -1]


def _convolution(_: Any, inputs: list[Shape], output: Shape) -> int:
    """The filter is [out, height, width, in of one group]."""
    return math.prod(output) * math.prod(inputs[1][1:])


def _depthwise(_: Any, inputs: list[Shape], output: Shape) -> int:
    """The filter is [1, height, width, out]."""
    return math.prod(output) * math.prod(inputs[1][1:3])


_COUNTS: dict[str, Callable[[Any, list[Shape], Shape], int]] = {
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
}
