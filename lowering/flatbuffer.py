"""Reading, merging and writing TFLite flatbuffers.

The format is `tflite/converter/schema/schema.fbs` of LiteRT; the objects are those of
`ai_edge_litert.schema_py_generated` (`ModelT`, `SubGraphT`, ...), which carries no type hints.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from autoconvert.errors import BROKEN, AutoconvertError, InputError
from autoconvert.ir.interface import Role

FILE_IDENTIFIER = b"TFL3"
NO_TENSOR = -1
_BUFFER_ALIGNMENT = 16


def names_by_code(enumeration: type) -> dict[int, str]:
    """The names of an enumeration of the schema by their numbers."""
    return {code: name for name, code in vars(enumeration).items() if isinstance(code, int)}


_OPERATOR_NAMES = names_by_code(schema.BuiltinOperator)
_PRODUCTS = {"FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D"}


def read_model(data: bytes) -> Any:
    """The `ModelT` of a flatbuffer, every buffer's data in the object whether it lay inside or after it.

    Raises InputError when the bytes are no TFLite flatbuffer, or a damaged one.
    """
    hint = "Make the file again."
    if data[4:8] != FILE_IDENTIFIER:
        raise InputError(f"not a TFLite flatbuffer: its identifier is {bytes(data[4:8])!r}", hint=hint)
    try:
        root_of(data, len(data))
        return flatbuffer_utils.read_model_from_bytearray(data)
    except BROKEN as error:
        raise InputError(f"the flatbuffer is damaged: {error}", hint=hint) from error


def mapped_model(path: Path, begin: int = 0) -> Any:
    """The `ModelT` that begins at a byte of a file; its arrays lie in the mapped file, those after it are left there.

    Raises InputError when there is no TFLite flatbuffer, or a damaged one.
    """
    hint = "Make the file again."
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[begin + 4 : begin + 8] != FILE_IDENTIFIER:
            raise InputError(f"{path} is no TFLite file.", hint="Give a .tflite, or a .litertlm that holds one.")
        return schema.ModelT.InitFromObj(root_of(data, len(data), begin))
    except BROKEN as error:
        raise InputError(f"{path} is damaged: {error}", hint=hint) from error


def root_of(data: Any, size: int, begin: int = 0) -> Any:
    """The schema's `Model` in a flatbuffer of `size` bytes, whose lists can be walked in the time of reading those.

    Raises one of BROKEN where they are longer together than the bytes can hold, as offsets to one list many times say.
    """
    model = schema.Model.GetRootAs(data, begin)
    listed = 0
    for length in _lengths(model):
        listed += length
        if listed > size:
            raise ValueError(f"its lists are longer than its {size} bytes")
    return model


def _lengths(model: Any) -> Iterator[int]:
    """The lengths of all lists that readers walk, outer ones before what is in them."""
    yield model.OperatorCodesLength() + model.BuffersLength() + model.MetadataLength()
    yield model.SubgraphsLength()
    for subgraph in map(model.Subgraphs, range(model.SubgraphsLength())):
        yield subgraph.InputsLength() + subgraph.OutputsLength() + subgraph.TensorsLength()
        for tensor in map(subgraph.Tensors, range(subgraph.TensorsLength())):
            yield tensor.ShapeLength() + tensor.ShapeSignatureLength()
            if (quantization := tensor.Quantization()) is not None:
                yield quantization.ScaleLength() + quantization.ZeroPointLength()
        yield subgraph.OperatorsLength()
        for operator in map(subgraph.Operators, range(subgraph.OperatorsLength())):
            yield operator.InputsLength() + operator.OutputsLength() + operator.IntermediatesLength()
    yield model.SignatureDefsLength()
    for signature in map(model.SignatureDefs, range(model.SignatureDefsLength())):
        yield signature.InputsLength() + signature.OutputsLength()


def write_model(model: Any) -> bytes:
    """The flatbuffer of a `ModelT`.

    An array object that several tensors hold, such as scales that subgraphs share, is written once, and the
    flatbuffer's size follows from the lengths of the arrays alone.
    """
    builder = _SharingBuilder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def merge(models: Sequence[Any]) -> Any:
    """One `ModelT` with the signatures of all, in order; the models given are taken apart.

    Operator codes and equal buffers are shared, subgraphs and references to them are renumbered, and tensors
    and subgraphs get names that are unique in the file. Raises AutoconvertError when two models have a
    signature of the same name.
    """
    merged = schema.ModelT(
        version=models[0].version,
        description=models[0].description,
        operatorCodes=[],
        subgraphs=[],
        buffers=[schema.BufferT()],
        metadata=[],
        signatureDefs=[],
    )
    buffer_of_content: dict[bytes, int] = {}
    code_of_operator: dict[tuple[object, ...], int] = {}
    for model in models:
        _renumber_operator_codes(model, merged, code_of_operator)
        _renumber_buffers(model, merged, buffer_of_content)
        _renumber_subgraphs(model, len(merged.subgraphs))
        merged.subgraphs.extend(model.subgraphs)
        for signature in model.signatureDefs or []:
            if any(signature.signatureKey == other.signatureKey for other in merged.signatureDefs):
                raise AutoconvertError(f"two graphs have the signature {signature.signatureKey.decode()!r}")
            merged.signatureDefs.append(signature)
        _merge_metadata(model, merged)
    _make_names_unique(merged)
    return merged


def operator_name(model: Any, operator: Any) -> str:
    """The name of an operator as in the schema (`FULLY_CONNECTED`), or the name of a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = flatbuffer_utils.get_builtin_code_from_operator_code(code)
    if builtin == schema.BuiltinOperator.CUSTOM and code.customCode:
        return str(code.customCode.decode())
    return str(_OPERATOR_NAMES.get(builtin, f"BUILTIN_{builtin}"))


def before_logits(model: Any, subgraph_index: int) -> list[Any]:
    """The operators whose results come to the logits and are no factor of a product again."""
    signature = signatures_by_subgraph(model).get(subgraph_index)
    results = signature.outputs if signature else []
    wanted = {result.tensorIndex for result in results if result.name.decode() == Role.LOGITS.value}
    found = []
    for operator in reversed(model.subgraphs[subgraph_index].operators):
        if not wanted.isdisjoint(operator.outputs):
            found.append(operator)
            wanted.update(operator.inputs if operator_name(model, operator) not in _PRODUCTS else ())
    return found


def operator_code(model: Any, builtin: int, version: int) -> int:
    """The index of a builtin's operator code, added when the model has none of at least that version."""
    for index, code in enumerate(model.operatorCodes):
        if flatbuffer_utils.get_builtin_code_from_operator_code(code) == builtin and code.version >= version:
            return index
    # Older runtimes read the one-byte field alone; 127 says that the code is in the wider one.
    narrow = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=narrow, builtinCode=builtin, version=version))
    return len(model.operatorCodes) - 1


def signatures_by_subgraph(model: Any) -> dict[int, Any]:
    """The signature of each subgraph that has one."""
    return {signature.subgraphIndex: signature for signature in model.signatureDefs or []}


def drop_unused_tensors(subgraph: Any, signature: Any | None) -> None:
    """Remove the tensors that no operator, input or output names, and renumber the rest."""
    used = {index for operator in subgraph.operators for index in _tensor_indices(operator)}
    used |= {*subgraph.inputs, *subgraph.outputs}
    kept = [index for index in range(len(subgraph.tensors)) if index in used]
    new_index = {old: new for new, old in enumerate(kept)} | {NO_TENSOR: NO_TENSOR}
    subgraph.tensors = [subgraph.tensors[index] for index in kept]
    subgraph.inputs = [new_index[index] for index in subgraph.inputs]
    subgraph.outputs = [new_index[index] for index in subgraph.outputs]
    for operator in subgraph.operators:
        for field in ("inputs", "outputs", "intermediates"):
            if (indices := getattr(operator, field)) is not None:
                setattr(operator, field, [new_index[index] for index in indices])
    if signature is not None:
        for entry in [*signature.inputs, *signature.outputs]:
            entry.tensorIndex = new_index[entry.tensorIndex]


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no type hints
    """A builder that writes an array object once and aligns bytes as the schema's `force_align: 16` asks."""

    def __init__(self, initial_size: int) -> None:
        super().__init__(initial_size)
        # By identity, not by content: the size must not depend on what the arrays hold.
        self._offset_of_array: dict[int, int] = {}

    def CreateNumpyVector(self, x: np.ndarray[Any, Any]) -> int:
        if id(x) not in self._offset_of_array:
            if x.dtype == np.uint8:
                # The generated Python code leaves force_align out; a runtime may read the bytes as floats.
                self.Prep(_BUFFER_ALIGNMENT, x.size)
            self._offset_of_array[id(x)] = super().CreateNumpyVector(x)
        return self._offset_of_array[id(x)]


def _tensor_indices(operator: Any) -> Iterator[int]:
    for indices in (operator.inputs, operator.outputs, operator.intermediates):
        if indices is not None:
            yield from indices


def _renumber_operator_codes(model: Any, merged: Any, code_of_operator: dict[tuple[object, ...], int]) -> None:
    new_index = []
    for code in model.operatorCodes:
        key = (code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version)
        if key not in code_of_operator:
            code_of_operator[key] = len(merged.operatorCodes)
            merged.operatorCodes.append(code)
        new_index.append(code_of_operator[key])
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            operator.opcodeIndex = new_index[operator.opcodeIndex]


def _renumber_buffers(model: Any, merged: Any, buffer_of_content: dict[bytes, int]) -> None:
    def shared(content: bytes) -> int:
        if content not in buffer_of_content:
            buffer_of_content[content] = len(merged.buffers)
            merged.buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        return buffer_of_content[content]

    new_index = [
        0 if buffer.data is None or len(buffer.data) == 0 else shared(bytes(buffer.data)) for buffer in model.buffers
    ]
    for subgraph in model.subgraphs:
        empty = _empty_constants(subgraph)
        for index, tensor in enumerate(subgraph.tensors):
            tensor.buffer = shared(b"") if index in empty else new_index[tensor.buffer]
    for entry in model.metadata or []:
        entry.buffer = new_index[entry.buffer]


def _empty_constants(subgraph: Any) -> set[int]:
    """Tensors without elements that nothing computes.

    Their buffer is empty but not 0, which says "no data": the runtime would take them, such as the shape of a scalar,
    for computed, and decide what follows from them only while it runs.
    """
    computed = {*map(int, subgraph.inputs), *(int(index) for each in subgraph.operators for index in each.outputs)}
    return {
        index
        for index, tensor in enumerate(subgraph.tensors)
        if index not in computed and tensor.shape is not None and 0 in tensor.shape
    }


def _renumber_subgraphs(model: Any, first: int) -> None:
    for signature in model.signatureDefs or []:
        signature.subgraphIndex += first
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            renumber_called(operator, lambda index: index + first)


def renumber_called(operator: Any, number: Callable[[int], int]) -> None:
    """Gives each subgraph that an operator calls another `number`, in options of its own.

    Composites, control flow, sorts and scatters name their bodies in fields called `...subgraph...`.
    """
    for place in ("builtinOptions", "builtinOptions2"):
        options = copy(getattr(operator, place))
        for field, value in list(vars(options).items()) if options is not None else ():
            if "subgraph" not in field.lower() or value is None:
                continue
            if isinstance(value, int):
                setattr(options, field, number(value) if value >= 0 else value)
            else:
                setattr(options, field, [number(int(index)) for index in value])
        setattr(operator, place, options)


def _merge_metadata(model: Any, merged: Any) -> None:
    by_name = {entry.name: entry for entry in merged.metadata}
    for entry in model.metadata or []:
        known = by_name.get(entry.name)
        if known is None:
            merged.metadata.append(entry)
        elif entry.name == b"min_runtime_version":
            known.buffer = max(known.buffer, entry.buffer, key=lambda index: _version(merged.buffers[index]))


def _version(buffer: Any) -> tuple[int, ...]:
    """The number in a `min_runtime_version` buffer, which is a string padded with zero bytes."""
    parts = buffer.data.tobytes().rstrip(b"\0").decode().split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _make_names_unique(model: Any) -> None:
    owner = _owning_signatures(model)
    for signature in model.signatureDefs:
        model.subgraphs[signature.subgraphIndex].name = signature.signatureKey
    subgraph_names: set[bytes] = set()
    tensor_names: set[bytes] = set()
    for index, subgraph in enumerate(model.subgraphs):
        signature = owner.get(index, b"")
        subgraph.name = _unique(subgraph.name or b"", signature, subgraph_names)
        for tensor in subgraph.tensors:
            tensor.name = _unique(tensor.name or b"", signature, tensor_names)


def _owning_signatures(model: Any) -> dict[int, bytes]:
    """The signature from which each subgraph is reached, the first where several are."""
    owner: dict[int, bytes] = {}
    for signature in model.signatureDefs:
        pending = [signature.subgraphIndex]
        while pending:
            index = pending.pop()
            if index in owner:
                continue
            owner[index] = signature.signatureKey
            for operator in model.subgraphs[index].operators:
                for options in (operator.builtinOptions, operator.builtinOptions2):
                    pending.extend(_referenced_subgraphs(options))
    return owner


def _referenced_subgraphs(options: Any | None) -> Iterable[int]:
    for field, value in vars(options).items() if options is not None else ():
        if "subgraph" in field.lower() and value is not None:
            yield from [value] if isinstance(value, int) else value


def _unique(name: bytes, signature: bytes, taken: set[bytes]) -> bytes:
    """`name`, or where it is taken already `signature/name`, with a number when that is taken too."""
    candidate, number = name, 0
    while candidate in taken or not candidate:
        candidate = signature + b"/" + name + (b";%d" % number if number else b"")
        number += 1
    taken.add(candidate)
    return candidate
