"""Private functions of litert-torch 0.10.0: what its public `convert` does, with one round of decomposition fewer.

`litert_torch.signature(…).convert()` decomposes every graph twice before MLIR is built. Ours consists of ATen
operations that the second round covers: without the first, the benchmark of Llama-3.2-1B takes 32 s instead of 52.
"""

from collections.abc import Mapping

from torch import Tensor, fx


def convert(name: str, graph: fx.GraphModule, inputs: Mapping[str, Tensor]) -> bytes:
    """The flatbuffer of one signature, as `litert_torch.signature(name, graph, sample_kwargs=inputs)` converts it."""
    from litert_torch._convert import core, litert_converter
    from litert_torch._convert.signature import Signature
    from litert_torch.model import LiteRTModel

    signature = Signature(name, graph, None, dict(inputs))
    exported = core.export_torch_signature(signature, run_decompositions=False)
    exported = core._run_convert_passes(exported)
    exporter = litert_converter.exported_programs_to_flatbuffer([exported], [signature])
    return bytes(LiteRTModel(exporter).model_content())
