"""Private functions of litert-torch 0.10.0: what its public `convert` does, without tracing every layer again.

`litert_torch.signature(…).convert()` decomposes a graph three times, and traces the whole of it each time. Ours
consists of ATen operations that the second round covers, and there each distinct operation is traced once.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument

from autoconvert.ir.graph_module import graph_module
from autoconvert.lowering.exported_program import exported_program
from autoconvert.lowering.run_decompositions import Definitions, run_decompositions


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
    exporter = litert_converter.exported_programs_to_flatbuffer([exported], [signature])
    return bytes(LiteRTModel(exporter).model_content())


def _decomposed(exported: Any, definitions: Definitions) -> ExportedProgram:
    run_decompositions(exported.graph, definitions)
    results = exported.graph.output_node().args[0]
    for spec, node in zip(exported.graph_signature.output_specs, results, strict=True):
        spec.arg = TensorArgument(node.name)
    return exported
