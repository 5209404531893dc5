"""A function of tensors lowered alone and run in the interpreter."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autoconvert.ir.editing import traced
from autoconvert.ir.program import Program
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import operator_name, read_model
from autoconvert.lowering.litert import lower
from autoconvert.passes.canonicalize import canonicalize


def results(function: Callable[..., Any], *tensors: Tensor) -> list[Tensor]:
    """What the function returns, a tensor or several, as a list."""
    given = function(*tensors)
    return list(given) if isinstance(given, tuple | list) else [given]


def lowered(function: Callable[..., Any], *tensors: Tensor) -> bytes:
    """The flatbuffer with inputs x0, x1, … and outputs y0, y1, …"""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        values = {f"x{index}": mode.from_tensor(tensor) for index, tensor in enumerate(tensors)}

    def named(**bound: Tensor) -> dict[str, Tensor]:
        return {f"y{index}": result for index, result in enumerate(results(function, *bound.values()))}

    return lower("function", Program(canonicalize(traced(named, values))), CPU)


def run(content: bytes, *tensors: Tensor) -> list[Tensor]:
    """The outputs of the only signature."""
    runner = Interpreter(model_content=content).get_signature_runner("function")
    types = {name: details["dtype"] for name, details in runner.get_input_details().items()}
    inputs = {f"x{index}": tensor.numpy() for index, tensor in enumerate(tensors)}
    outputs = runner(**{name: value.astype(types[name]) for name, value in inputs.items() if name in types})
    return [torch.from_numpy(outputs[f"y{index}"]) for index in range(len(outputs))]


def operations(content: bytes) -> Counter[str]:
    """How often each operation is in the signature's graph."""
    model = read_model(content)
    subgraph = model.subgraphs[model.signatureDefs[0].subgraphIndex]
    return Counter(operator_name(model, operator) for operator in subgraph.operators)


def postponed(content: bytes, *shapes: tuple[int, ...]) -> set[str]:
    """Operations of the first signature whose results have no memory yet before it is run, with inputs of `shapes`."""
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    for details, shape in zip(interpreter.get_input_details(), shapes, strict=False):
        interpreter.resize_tensor_input(details["index"], shape)
    interpreter.allocate_tensors()
    return {
        operation["op_name"]
        for operation in interpreter._get_ops_details()
        for index in operation["outputs"]
        if not _has_memory(interpreter, int(index))
    }


def shared_concatenations(content: bytes) -> list[list[int]]:
    """What those CONCATENATIONs of the first signature read that take from other kernels and give to other kernels.

    Called again at other lengths, XNNPACK sets a copy up for its old addresses first. Where a part's old address is by
    chance the one that it is copied to, it counts as copied and is never copied again (ai-edge-litert 2.3.0).
    """
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    operations = interpreter._get_ops_details()
    return [
        list(map(int, operation["inputs"]))
        for operation in operations
        if operation["op_name"] == "CONCATENATION"
        for delegate in operations
        if delegate["op_name"] == "DELEGATE"
        if all(set(operation[ends]) & set(delegate[ends]) for ends in ("inputs", "outputs"))
    ]


def _has_memory(interpreter: Interpreter, index: int) -> bool:
    try:
        interpreter.get_tensor(index)
    except ValueError:
        # What is empty has no need of it.
        return any(d["index"] == index and 0 in d["shape"] for d in interpreter.get_tensor_details())
    return True
