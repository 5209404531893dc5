"""Private functions of litert-torch 0.10.0: what its public `convert` does, without tracing every layer again.

`litert_torch.signature(…).convert()` decomposes a graph three times, and traces the whole of it each time. Ours
consists of ATen operations that the second round covers, and there each distinct operation is traced once.

Most operations are then lowered by JAX, each distinct one once for a signature. Here it is once for a process:
signatures have most of theirs in common.
"""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any
from unittest.mock import patch

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

from autoconvert.ir.graph_module import graph_module
from autoconvert.lowering.exported_program import exported_program
from autoconvert.lowering.run_decompositions import Definitions, run_decompositions

# Some hundred operations for a model, each a few kilobytes.
_MOST_OPERATIONS = 4096
_stablehlo: dict[Hashable, str] = {}


def convert(name: str, graph: fx.GraphModule, inputs: Mapping[str, Tensor]) -> bytes:
    """The flatbuffer of one signature, as `litert_torch.signature(name, graph, sample_kwargs=inputs)` converts it."""
    from litert_torch._convert import core, litert_converter
    from litert_torch._convert.signature import Signature
    from litert_torch.model import LiteRTModel

    signature = Signature(name, graph, None, dict(inputs))
    program = exported_program(graph, inputs)
    # A program writes its code whenever a pass is done, which takes longer than the passes.
    program._graph_module = graph_module(program.graph_module, program.graph)
    exported = core._run_convert_passes(program)
    # It is asked for its decompositions further down; this program, and no other, answers in its own way.
    exported.run_decompositions = lambda definitions: _decomposed(exported, definitions)
    with _lowering_once():
        exporter = litert_converter.exported_programs_to_flatbuffer([exported], [signature])
    return bytes(LiteRTModel(exporter).model_content())


def _decomposed(exported: Any, definitions: Definitions) -> ExportedProgram:
    run_decompositions(exported.graph, definitions)
    results = exported.graph.output_node().args[0]
    for spec, node in zip(exported.graph_signature.output_specs, results, strict=True):
        spec.arg = TensorArgument(node.name)
    return exported


def _lowering_once() -> Any:
    """A context in which JAX lowers no operation that it lowered before for the same shapes and numbers."""
    from litert_torch.backend.jax_bridge import _wrap

    fingerprint, lower_to_text = _wrap.get_cache_fingerprint, _wrap._lower_to_ir_text

    def identity(*arguments: Any, **named: Any) -> Hashable:
        return told_apart(fingerprint(*arguments, **named))

    def lower(
        function: Any, args: Any, kwargs: Any, ir_input_names: list[str] | None = None
    ) -> tuple[Callable[[], str], list[Any]]:
        text, inputs = lower_to_text(function, args, kwargs, ir_input_names=ir_input_names)
        return lambda: _remembered(identity(function, args, kwargs, ir_input_names), text), inputs

    return patch.multiple(
        _wrap, get_cache_fingerprint=identity, _lower_to_ir_text=lower, _stablehlo_to_vhlo=_to_vhlo(_wrap)
    )


def told_apart(fingerprint: Any) -> Any:
    """Of a nested tuple that says what is computed, one in which 1, 1.0 and True differ, and 0.0 and -0.0."""
    if isinstance(fingerprint, tuple):
        return tuple(map(told_apart, fingerprint))
    return (type(fingerprint), repr(fingerprint)) if isinstance(fingerprint, int | float) else fingerprint


def _remembered(operation: Hashable, text: Callable[[], str]) -> str:
    if operation is None:
        return text()
    if operation not in _stablehlo:
        if len(_stablehlo) >= _MOST_OPERATIONS:
            _stablehlo.clear()
        _stablehlo[operation] = text()
    return _stablehlo[operation]


@functools.cache
def _to_vhlo(wrap: Any) -> Callable[[str], bytes]:
    return functools.lru_cache(_MOST_OPERATIONS)(wrap._stablehlo_to_vhlo)
