"""torchao: tensor subclasses, flattened into safetensors.

`torchao/prototype/safetensors/safetensors_support.py` writes for X.weight tensors X._weight_qdata, X._weight_scale …,
and into the header's metadata, by the name X.weight, JSON with the class (`_type`), its attributes (`_data`) and the
names of its tensors. Read are the classes that store plain integers or floats (`torchao/quantization/quantize_`):

    Int8Tensor, IntxUnpackedToInt8Tensor  qdata int8, scale and zero_point one for each block of block_size
    Float8Tensor                          qdata float8, scale one for each block
"""

import json
from collections.abc import Mapping

import torch

from autoconvert.errors import InputError
from autoconvert.source.checkpoint import SafetensorsCheckpoint
from autoconvert.source.header_weights import HeaderWeights
from autoconvert.source.quantized.blocks import BlockScaled, block_of, described
from autoconvert.source.quantized.decoding import Decoding, companion, require_dtype, wrong_shape
from autoconvert.source.quantized.fp8 import FLOAT8
from autoconvert.source.quantized.settings import ORIGINAL, Quantization
from autoconvert.source.weights import FLOAT_DTYPES, StoredWeights

_DTYPES: Mapping[str, tuple[torch.dtype, ...]] = {
    "Int8Tensor": (torch.int8,),
    "IntxUnpackedToInt8Tensor": (torch.int8,),
    "Float8Tensor": FLOAT8,
}
_READ = ("qdata", "scale", "zero_point")
# What scales activations when the model runs, and leaves weights as they are.
_OF_ACTIVATIONS = ("act_quant_scale", "act_quant_zero_point")


def find(stored: StoredWeights, quantization: Quantization) -> dict[str, Decoding]:
    """The weights that the headers' metadata describes. Raises InputError for a class that is not read."""
    decodings = {}
    metadata = stored.metadata if isinstance(stored, SafetensorsCheckpoint | HeaderWeights) else {}
    for name, text in sorted(metadata.items()):
        fields = _fields(text)
        if (kind := fields.get("_type")) is None or kind == "Tensor":
            continue
        if kind not in _DTYPES:
            raise quantization.unsupported(f"{name} as {kind}")
        decodings[name] = _decoding(stored, name, str(kind), fields)
    if not decodings:
        raise quantization.unsupported(
            "no description of its tensors in the safetensors files",
            hint=f"save it with torchao 0.15 or newer as safetensors, or {ORIGINAL}",
        )
    return decodings


def _decoding(stored: StoredWeights, weight: str, kind: str, fields: Mapping[str, object]) -> Decoding:
    stem, _, leaf = weight.rpartition(".")
    listed = fields.get("_tensor_data_names")
    names = [str(name) for name in listed] if isinstance(listed, list) else ["qdata", "scale"]
    if others := [name for name in names if name not in (*_READ, *_OF_ACTIVATIONS)]:
        raise InputError(f"{weight}: {kind} with {others[0]}, which is not supported yet", hint=ORIGINAL)
    parts = {name: companion(stored, weight, f"{stem}._{leaf}_{name}") for name in names if name in _READ}
    for name in ("qdata", "scale"):
        parts.setdefault(name, companion(stored, weight, f"{stem}._{leaf}_{name}"))
    parts["weight"] = parts.pop("qdata")
    require_dtype(stored, parts["weight"], *_DTYPES[kind])
    require_dtype(stored, parts["scale"], *FLOAT_DTYPES)
    shape, grid = tuple(stored.shape(parts["weight"])), stored.shape(parts["scale"])
    if not shape or (block := block_of(shape, grid)) is None:
        raise wrong_shape(parts["scale"], grid, f"a scale for each block of {list(shape)}")
    if "zero_point" in parts and tuple(stored.shape(parts["zero_point"])) != tuple(grid):
        raise wrong_shape(parts["zero_point"], stored.shape(parts["zero_point"]), str(list(grid)))
    told = f"torchao's {kind} {described(shape, block)}"
    return Decoding(parts, shape, BlockScaled(shape, block).rows, told, _rounds_activations(fields))


def _rounds_activations(fields: Mapping[str, object]) -> bool:
    data = fields.get("_data")
    given = data if isinstance(data, Mapping) else {}
    return any(given.get(name) is not None for name in ("act_quant_kwargs", "activation_quantization"))


def _fields(text: str) -> Mapping[str, object]:
    """The JSON object in a value of the metadata; empty where it is none."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, Mapping) else {}
