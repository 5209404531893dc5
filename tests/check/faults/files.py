"""Faults of lowered graphs and of the linked file: what lowering or linking that is wrong would write."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autoconvert.check.stored import Constants, Stored
from autoconvert.lowering import flatbuffer

Graphs = dict[str, bytes]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class GraphFault:
    """A fault in the lowered graphs by signature."""

    name: str
    inject: Callable[[Graphs], Graphs]


@dataclass(frozen=True)
class FileFault:
    """A fault that is written into a linked file; the check's message must have `said`."""

    name: str
    inject: Callable[[Path], None]
    said: str


def _in(signatures: tuple[str, ...], change: Callable[[Any, Any], None]) -> Callable[[Graphs], Graphs]:
    """`change` is made in the model and main subgraph of these signatures."""

    def inject(graphs: Graphs) -> Graphs:
        changed = {}
        for name in signatures:
            model = flatbuffer.read_model(graphs[name])
            (signature,) = model.signatureDefs
            change(model, model.subgraphs[signature.subgraphIndex])
            changed[name] = flatbuffer.write_model(model)
        return {**graphs, **changed}

    return inject


def _operators(model: Any, subgraph: Any, name: str) -> list[Any]:
    return [each for each in subgraph.operators if flatbuffer.operator_name(model, each) == name]


def _other_activation(model: Any, subgraph: Any) -> None:
    """A gate is tanh where it is the logistic function."""
    _operators(model, subgraph, "LOGISTIC")[0].opcodeIndex = flatbuffer.operator_code(
        model, schema.BuiltinOperator.TANH, 1
    )


def _fused_activation(model: Any, subgraph: Any) -> None:
    """A projection cuts off what is below zero."""
    options = _operators(model, subgraph, "FULLY_CONNECTED")[1].builtinOptions
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU


def _other_axes(model: Any, subgraph: Any) -> None:
    """Queries are read as if another axis came first, which has the same size."""
    transpose = next(
        each
        for each in _operators(model, subgraph, "TRANSPOSE")
        if len(set(subgraph.tensors[each.inputs[0]].shape[1:3])) == 1
    )
    tensor = subgraph.tensors[transpose.inputs[1]]
    model.buffers.append(schema.BufferT(data=np.arange(4, dtype=np.int32).view(np.uint8)))
    tensor = schema.TensorT(**vars(tensor))
    tensor.buffer, tensor.name = len(model.buffers) - 1, b"no change of axes"
    subgraph.tensors.append(tensor)
    transpose.inputs[1] = len(subgraph.tensors) - 1


def _exchanged_operands(model: Any, subgraph: Any) -> None:
    """Two layers multiply by each other's matrix."""
    products = _operators(model, subgraph, "FULLY_CONNECTED")
    shapes = [tuple(subgraph.tensors[each.inputs[1]].shape) for each in products]
    # The first gate, and the first of the layer after it.
    first, _, second, *_ = (index for index, shape in enumerate(shapes) if shape == (48, 32))
    one, other = products[first].inputs[1], products[second].inputs[1]
    products[first].inputs[1], products[second].inputs[1] = other, one


def _other_epsilon(model: Any, subgraph: Any) -> None:
    """The number that a norm adds is a hundred times as large."""
    _multiply(model, _constant_of(model, subgraph, "ADD", lambda values: 0 < values[0] < 1e-4), 100)


def _last_row(model: Any, subgraph: Any) -> None:
    """The last row of a table of positions is another."""
    lookup = _operators(model, subgraph, "EMBEDDING_LOOKUP")[-1]
    tensor = subgraph.tensors[lookup.inputs[1]]
    values = _floats(model, tensor).reshape(tuple(tensor.shape)).copy()
    values[-1] = values[-2]
    model.buffers[tensor.buffer] = schema.BufferT(data=values.reshape(-1).view(np.uint8))


def _exchanged_states(model: Any, subgraph: Any) -> None:
    """Two layers' keys come out under each other's name."""
    outputs = {entry.name: entry for entry in model.signatureDefs[0].outputs}
    one, other = outputs[b"kv_cache_k_0"], outputs[b"kv_cache_k_1"]
    one.tensorIndex, other.tensorIndex = other.tensorIndex, one.tensorIndex


def _sum_for_product(model: Any, subgraph: Any) -> None:
    """The scores are divided where they are multiplied."""
    multiply = _operators(model, subgraph, "MUL")[-1]
    multiply.opcodeIndex = flatbuffer.operator_code(model, schema.BuiltinOperator.ADD, 1)
    multiply.builtinOptionsType, multiply.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()


def _constant_of(model: Any, subgraph: Any, name: str, is_it: Callable[[Array], bool]) -> Any:
    operands = (subgraph.tensors[index] for each in _operators(model, subgraph, name) for index in each.inputs)
    return next(
        each for each in operands if model.buffers[each.buffer].data is not None and is_it(_floats(model, each))
    )


def _floats(model: Any, tensor: Any) -> Array:
    values: Array = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.float32)
    return values


def _multiply(model: Any, tensor: Any, factor: float) -> None:
    model.buffers[tensor.buffer] = schema.BufferT(data=(_floats(model, tensor) * np.float32(factor)).view(np.uint8))


def other_activation_in(signature: str) -> Callable[[Graphs], Graphs]:
    return _in((signature,), _other_activation)


GRAPH_FAULTS: tuple[GraphFault, ...] = (
    GraphFault("another activation in decode", other_activation_in("decode")),
    GraphFault("another activation in the longest prefill", other_activation_in("prefill_16")),
    GraphFault("a fused activation in prefill", _in(("prefill_4",), _fused_activation)),
    GraphFault("axes in one prefill", _in(("prefill_4",), _other_axes)),
    GraphFault("operands", _in(("decode",), _exchanged_operands)),
    GraphFault("a number in a graph", _in(("prefill_4", "prefill_16", "decode"), _other_epsilon)),
    GraphFault("the last row of a table", _in(("decode",), _last_row)),
    GraphFault("states in prefill", _in(("prefill_16",), _exchanged_states)),
    GraphFault("a sum for a product", _in(("decode",), _sum_for_product)),
)


def _in_file(change: Callable[[bytearray, dict[str, Stored]], None]) -> Callable[[Path], None]:
    """`change` is made in the bytes of the file, beside what is stored there by name."""

    def inject(path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(data, dict(Constants(path).tensors))
        path.write_bytes(data)

    return inject


def _numbers(data: bytearray, stored: Stored) -> Array:
    """The int8 numbers of a constant [rows, columns], which can be changed in place."""
    return np.frombuffer(data, np.int8, stored.size, stored.offset).reshape(stored.rows, stored.columns)


def _exchanged(data: bytearray, tensors: dict[str, Stored]) -> None:
    """Two layers' matrices lie in each other's place, each with its own scales."""
    one, other = _numbers(data, tensors[QUERY]), _numbers(data, tensors[QUERY.replace("0", "1")])
    one[:], other[:] = other.copy(), one.copy()


def _one_byte(data: bytearray, tensors: dict[str, Stored]) -> None:
    """A bit in the middle of a byte is another."""
    _numbers(data, tensors[QUERY])[7, 9] ^= 8


def _clipped(data: bytearray, tensors: dict[str, Stored]) -> None:
    """The largest numbers are cut off."""
    numbers = _numbers(data, tensors[QUERY])
    np.clip(numbers, -100, 100, out=numbers)


def _sign_of_a_row(data: bytearray, tensors: dict[str, Stored]) -> None:
    numbers = _numbers(data, tensors[QUERY])
    numbers[3] = -numbers[3]


def _a_row_further(data: bytearray, tensors: dict[str, Stored]) -> None:
    numbers = _numbers(data, tensors[QUERY])
    numbers[:] = np.roll(numbers, 1, 0)


def _scale_of_a_row(data: bytearray, tensors: dict[str, Stored]) -> None:
    """A row is twice as large as it should be."""
    scales = tensors[QUERY].scales
    assert scales is not None
    begin = data.index(scales.tobytes())
    np.frombuffer(data, np.float32, len(scales), begin)[5] *= 2


def _table(data: bytearray, tensors: dict[str, Stored]) -> None:
    """A number of a table that belongs to no weight."""
    stored = next(each for each in tensors.values() if each.shape == (32, 8))
    np.frombuffer(data, np.float32, stored.size // 4, stored.offset)[-1] += 0.5


QUERY = "model_layers_0_self_attn_q_proj_weight"
_IN_QUERY = rf"row \d+ of constant '{QUERY}'"

FILE_FAULTS: tuple[FileFault, ...] = (
    FileFault("exchanged constants", _in_file(_exchanged), _IN_QUERY),
    FileFault("one bit", _in_file(_one_byte), rf"row 7 of constant '{QUERY}'"),
    FileFault("clipped", _in_file(_clipped), _IN_QUERY),
    FileFault("sign of a row", _in_file(_sign_of_a_row), rf"row 3 of constant '{QUERY}'"),
    FileFault("rows", _in_file(_a_row_further), _IN_QUERY),
    FileFault("scale of a row", _in_file(_scale_of_a_row), rf"row 5 of constant '{QUERY}'.*int8 allows"),
    FileFault("a table", _in_file(_table), r"constant 'model/layers/0/self_attn.*' is in none of the graphs"),
)
