"""DEQUANTIZE operations, where no kernel reads a weight as it is stored."""

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering import flatbuffer
from autoconvert.quantization.encoding import Encoding


def widen(model: Any, subgraph: Any, tensor_index: int, encoding: Encoding) -> None:
    """Insert what makes float32 of a stored tensor for the operators of `subgraph` that use it.

    The whole tensor is widened, once, before its first use. EMBEDDING_LOOKUP copies rows as they are: where they need
    no scale, its output has the encoding's type instead and the few rows are widened.
    """
    widened: int | None = None
    for operator in list(subgraph.operators):
        for operand, index in enumerate(operator.inputs):
            if index != tensor_index:
                continue
            if encoding.scale_shape is None and flatbuffer.operator_name(model, operator) == "EMBEDDING_LOOKUP":
                rows = _add_tensor(subgraph, operator.outputs[0], encoding.name.encode(), encoding.tensor_type)
                after = subgraph.operators.index(operator) + 1
                _insert_dequantize(model, subgraph, after, rows, operator.outputs[0], encoding)
                operator.outputs = [rows]
                continue
            if widened is None:
                widened = _add_tensor(subgraph, tensor_index, b"float32", schema.TensorType.FLOAT32)
                before = subgraph.operators.index(operator)
                _insert_dequantize(model, subgraph, before, tensor_index, widened, encoding)
            operator.inputs[operand] = widened


def _add_tensor(subgraph: Any, like: int, suffix: bytes, tensor_type: int) -> int:
    """The index of a new activation in the shape of tensor `like`."""
    original = subgraph.tensors[like]
    name = b"/".join((subgraph.name, original.name, suffix))
    shape = {"shape": original.shape, "shapeSignature": original.shapeSignature, "hasRank": original.hasRank}
    subgraph.tensors.append(schema.TensorT(name=name, type=tensor_type, **shape))
    return len(subgraph.tensors) - 1


def _insert_dequantize(model: Any, subgraph: Any, position: int, source: int, result: int, encoding: Encoding) -> None:
    assert encoding.dequantize_version is not None
    code = flatbuffer.operator_code(model, schema.BuiltinOperator.DEQUANTIZE, encoding.dequantize_version)
    dequantize = schema.OperatorT(opcodeIndex=code, inputs=[source], outputs=[result])
    subgraph.operators.insert(position, dequantize)
