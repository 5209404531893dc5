"""Which format a checkpoint is quantized in, and its weights decoded from it."""

from collections import Counter
from collections.abc import Callable, Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from autoconvert.errors import InputError
from autoconvert.source.derivation import Derivation
from autoconvert.source.quantized import (
    awq,
    bitnet,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    mxfp4,
    torchao,
)
from autoconvert.source.quantized.decoding import Checkpoint, DecodedWeights, Decoding, sources_of, wrong_shape
from autoconvert.source.quantized.settings import ORIGINAL, Quantization
from autoconvert.source.weights import StoredWeights

# By quant_method. Which weights there are, and most of what is to know of each, is found in the stored tensors.
FORMATS: Mapping[str, Callable[[StoredWeights, Quantization], dict[str, Decoding]]] = {
    "gptq": gptq.find,
    "awq": awq.find,
    "compressed-tensors": compressed_tensors.find,
    "fp8": fp8.find,
    "fbgemm_fp8": fp8.find,
    "mxfp4": mxfp4.find,
    "bitnet": bitnet.find,
    "torchao": torchao.find,
}
BITSANDBYTES = "bitsandbytes"
METHODS = (*FORMATS, BITSANDBYTES)


def decoded(
    stored: StoredWeights, quantization: Quantization | None, shapes: bitsandbytes.Shapes
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The weights that `stored` stands for, and what there is to say about them; `stored` itself where it is plain.

    Reads headers, and of bitsandbytes what its headers do not say. `shapes` are those of the module's tensors.

    Raises:
        InputError: the method or an option of it is not supported, or the stored tensors do not fit together.
    """
    if quantization is None and not bitsandbytes.is_here(stored):
        _refuse_unexplained(stored)
        return stored, ()
    if quantization is None:
        decodings, notes = bitsandbytes.find(stored, shapes), ["config.json does not say that it is quantized"]
    else:
        decodings, notes = _decodings(stored, quantization, shapes), []
    for name, decoding in decodings.items():
        if name in stored.names() and name not in decoding.parts.values():
            raise InputError(
                f"{name}: stored, and {next(iter(decoding.parts.values()))}, which it would be decoded from, is too",
                hint="download or save the checkpoint again",
            )
        if 0 in decoding.shape:
            part = next(iter(decoding.parts.values()))
            raise wrong_shape(part, stored.shape(part), "a tensor with numbers")
    if not decodings and quantization is not None:
        return stored, (f"config.json names {quantization.method}, but every weight is stored as it is",)
    kinds = Counter(decoding.kind for decoding in decodings.values())
    told = [f"{count} weight{'s are' if count > 1 else ' is'} decoded from {kind}" for kind, count in kinds.items()]
    if any(decoding.rounds_activations for decoding in decodings.values()):
        notes.append("activations are not rounded, as the checkpoint's own kernels do")
    return DecodedWeights(stored, decodings), (*told, *notes)


def refuse_transposed(module: nn.Module, derivations: Mapping[str, Derivation], checkpoint: Checkpoint) -> None:
    """Raise InputError for a decoded weight of a `Conv1D`, as GPT-2's: its outputs come last, decoded ones first."""
    for name, derivation in derivations.items():
        path = name.rpartition(".")[0]
        if isinstance(module.get_submodule(path), Conv1D) and any(
            sources_of(checkpoint, source) != (source,) for source in derivation.sources
        ):
            raise InputError(
                f"{name}: a quantized weight of a Conv1D, whose axes are exchanged, is not supported yet", hint=ORIGINAL
            )


def _decodings(stored: StoredWeights, quantization: Quantization, shapes: bitsandbytes.Shapes) -> dict[str, Decoding]:
    method = quantization.method
    if method == BITSANDBYTES:
        return bitsandbytes.find(stored, shapes)
    if method not in FORMATS:
        raise InputError(
            f"{quantization.path}: the checkpoint is quantized already ({method}), which is not supported yet",
            hint=f"{ORIGINAL}, or one that is quantized by {', '.join(METHODS[:-1])} or {METHODS[-1]}",
        )
    return FORMATS[method](stored, quantization)


def _refuse_unexplained(stored: StoredWeights) -> None:
    """Packed weights of which nothing says how they are packed."""
    for name in stored.names():
        if name.endswith((".qweight", ".weight_packed")):
            raise InputError(
                f"{name}: a packed weight, and config.json has no quantization_config",
                hint="add the quantization_config that the checkpoint was quantized with",
            )
