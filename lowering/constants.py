"""Weight inputs of a graph become constants: placed, named, typed, and cut off the signatures."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from autoconvert.errors import AutoconvertError
from autoconvert.ir.weight import Weight
from autoconvert.lowering import flatbuffer
from autoconvert.lowering.dequantize import widen
from autoconvert.quantization.encoding import Encoding
from autoconvert.quantization.encodings.float32 import FLOAT32
from autoconvert.quantization.recipe import HEAD, MULTIPLIED, Recipe, Use


@dataclass
class Constant:
    """One stored tensor: the weights that share it, and every place of the model that uses it.

    `tensors` and `buffer` are objects of the `ModelT`.
    """

    weights: list[Weight]
    uses: set[Use] = field(default_factory=set)
    places: list[tuple[int, int, Weight]] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)
    buffer: Any = None
    encoding: Encoding = FLOAT32

    @property
    def weight(self) -> Weight:
        """The weight whose value is stored; those that share it have the same one."""
        return self.weights[0]

    @property
    def size(self) -> int:
        """Bytes of the data in the file, without scales."""
        return self.encoding.data_size(self.weight.shape)


def make_constants(model: Any, weights: Mapping[str, Weight], recipe: Recipe) -> list[Constant]:
    """Make every signature input that `weights` names a constant, in the order of `weights`.

    Weights of the same source, or of the same program over the same sources, become one constant. A weight
    that no operator uses is removed from the model and is not among the constants. Raises AutoconvertError
    when an input is not float32 of the weight's shape.
    """
    constants = _constants_by_identity(weights)
    constant_of = {weight.name: constant for constant in constants for weight in constant.weights}
    _cut_weight_inputs(model, weights, constant_of)
    heads = {id(each) for index in range(len(model.subgraphs)) for each in flatbuffer.before_logits(model, index)}
    for constant in constants:
        _collect_uses(model, constant, heads)
    used = [constant for constant in constants if constant.uses]
    _name(model, used)
    for constant in used:
        _place(model, constant, recipe)
    signatures = flatbuffer.signatures_by_subgraph(model)
    for index, subgraph in enumerate(model.subgraphs):
        flatbuffer.drop_unused_tensors(subgraph, signatures.get(index))
    return used


class ZeroPoints:
    """The zero points of symmetric scales; one array for all tensors with as many scales, so written once."""

    def __init__(self) -> None:
        self._of_length: dict[int, npt.NDArray[np.int64]] = {}

    def __call__(self, count: int) -> npt.NDArray[np.int64]:
        return self._of_length.setdefault(count, np.zeros(count, np.int64))


def reserve_scales(model: Any, constant: Constant, zero_points: ZeroPoints) -> npt.NDArray[Any] | None:
    """The array of scales that all tensors of the constant hold, still zeros; None where its encoding has none."""
    encoding = constant.encoding
    if encoding.scale_shape is None:
        return None
    if encoding.block is not None:
        return _scales_of_blocks(model, constant, encoding.scale_shape(constant.weight.shape), encoding.block)
    scales = np.zeros(encoding.scale_shape(constant.weight.shape), np.float32)
    # The flatbuffer has them in a row, whatever their shape: a view, so that it sees what is filled in.
    in_a_row = scales.reshape(-1)
    for tensor in constant.tensors:
        tensor.quantization = schema.QuantizationParametersT(
            scale=in_a_row, zeroPoint=zero_points(len(in_a_row)), quantizedDimension=encoding.quantized_dimension
        )
    return scales


def _scales_of_blocks(model: Any, constant: Constant, shape: tuple[int, ...], block: int) -> npt.NDArray[np.float16]:
    """A tensor beside the weight in each of its subgraphs; all have the data of one buffer."""
    scales = np.zeros(shape, np.float16)
    model.buffers.append(schema.BufferT(data=scales.reshape(-1).view(np.uint8)))
    for (subgraph_index, _, _), tensor in zip(constant.places, constant.tensors, strict=True):
        subgraph = model.subgraphs[subgraph_index]
        beside = schema.TensorT(
            name=tensor.name + b"/scales",
            type=schema.TensorType.FLOAT16,
            shape=list(shape),
            buffer=len(model.buffers) - 1,
            hasRank=True,
        )
        subgraph.tensors.append(beside)
        # A zero point of -1 is none: the schema's way to leave a tensor out.
        details = schema.BlockwiseQuantizationT(scales=len(subgraph.tensors) - 1, zeroPoints=-1, blockSize=block)
        tensor.quantization = schema.QuantizationParametersT(
            detailsType=schema.QuantizationDetails.BlockwiseQuantization, details=details
        )
    return scales


def _constants_by_identity(weights: Mapping[str, Weight]) -> list[Constant]:
    by_identity: dict[tuple[object, ...], Constant] = {}
    for weight in weights.values():
        identity = (weight.sources, _program_identity(weight), weight.shape)
        if identity in by_identity:
            by_identity[identity].weights.append(weight)
        else:
            by_identity[identity] = Constant([weight])
    return list(by_identity.values())


def _program_identity(weight: Weight) -> object:
    """Equal for programs that compute the same: their code says all, unless they hold tensors or modules."""
    program = weight.program
    if program is None:
        return None
    holds_state = any(node.op in ("get_attr", "call_module") for node in program.graph.nodes)
    return id(program) if holds_state else program.code


def _cut_weight_inputs(model: Any, weights: Mapping[str, Weight], constant_of: Mapping[str, Constant]) -> None:
    for signature in model.signatureDefs or []:
        subgraph = model.subgraphs[signature.subgraphIndex]
        for entry in signature.inputs:
            name = entry.name.decode()
            if name not in weights:
                continue
            tensor = subgraph.tensors[entry.tensorIndex]
            shape = tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()
            if shape != tuple(weights[name].shape) or tensor.type != schema.TensorType.FLOAT32:
                raise AutoconvertError(
                    f"input {name!r} of {signature.signatureKey.decode()!r} has shape {shape} and type "
                    f"{tensor.type}, but the weight is float32 of {tuple(weights[name].shape)}"
                )
            place = (signature.subgraphIndex, entry.tensorIndex, weights[name])
            constant_of[name].places.append(place)
        bound = {entry.tensorIndex for entry in signature.inputs if entry.name.decode() in weights}
        signature.inputs = [entry for entry in signature.inputs if entry.tensorIndex not in bound]
        subgraph.inputs = [index for index in subgraph.inputs if index not in bound]


def _collect_uses(model: Any, constant: Constant, heads: Container[int]) -> None:
    """Fill in `uses`, and forget the places where nothing uses the weight; `heads` are operators before the logits."""
    used_places = []
    for subgraph_index, tensor_index, weight in constant.places:
        subgraph = model.subgraphs[subgraph_index]
        users = [
            (operator, operand)
            for operator in subgraph.operators
            for operand, index in enumerate(operator.inputs)
            if index == tensor_index
        ]
        uses = {(flatbuffer.operator_name(model, operator), operand) for operator, operand in users}
        if any(id(operator) in heads for operator, _ in users) and MULTIPLIED in uses:
            uses.add(HEAD)
        if tensor_index in subgraph.outputs:
            uses.add(("OUTPUT", subgraph.outputs.index(tensor_index)))
        if uses:
            constant.uses |= uses
            used_places.append((subgraph_index, tensor_index, weight))
    constant.places = used_places


def _name(model: Any, constants: list[Constant]) -> None:
    """Weights carry their own names, behind the subgraph's in all subgraphs but the first that has them.

    The quantizer and other tools want names that are unique in the file; an activation that happens to have
    a weight's name is renamed.
    """
    names: dict[bytes, int] = {}
    for constant in constants:
        for subgraph_index, tensor_index, weight in constant.places:
            subgraph = model.subgraphs[subgraph_index]
            tensor = subgraph.tensors[tensor_index]
            own = weight.name.encode()
            tensor.name = own if own not in names else subgraph.name + b"/" + own
            names[tensor.name] = id(tensor)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            while names.setdefault(tensor.name, id(tensor)) != id(tensor):
                tensor.name = subgraph.name + b"/" + tensor.name


def _place(model: Any, constant: Constant, recipe: Recipe) -> None:
    weight = constant.weight
    constant.encoding = recipe.encoding_of(weight.sources, constant.uses, weight.shape)
    # Zero is a default, which a flatbuffer leaves out; the layout fills in the real numbers.
    constant.buffer = schema.BufferT(offset=1, size=1)
    model.buffers.append(constant.buffer)
    for subgraph_index, tensor_index, _ in constant.places:
        tensor = model.subgraphs[subgraph_index].tensors[tensor_index]
        tensor.buffer = len(model.buffers) - 1
        tensor.type = constant.encoding.tensor_type
        constant.tensors.append(tensor)
        if constant.encoding.dequantize_version is not None:
            widen(model, model.subgraphs[subgraph_index], tensor_index, constant.encoding)
