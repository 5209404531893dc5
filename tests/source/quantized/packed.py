"""Tiny models whose linear weights are stored packed, and all that must then be true of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig

from autoconvert.source.accounting import account
from autoconvert.source.config import read_quantization
from autoconvert.source.header_weights import Header, HeaderWeights
from autoconvert.source.quantized.formats import decoded
from autoconvert.source.safetensors_file import SafetensorsFile
from autoconvert.source.source import Source, load_source
from autoconvert.source.streamed import streamed
from autoconvert.source.tensors import checkpoint_of, contents
from tests.source.tiny import build

FILE = "model.safetensors"
QUERY = "model.layers.0.self_attn.q_proj"
IDS = torch.tensor([[5, 3, 96, 0, 5, 17]])
# What a format stores for a weight [out, in] of a linear layer, and the weight that this stands for.
Quantize = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def llama() -> LlamaConfig:
    """Sizes are multiples of 32; only an MLP's inner one is none of 64."""
    return LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
    )


def save(
    folder: Path,
    quantization: Mapping[str, object] | None,
    quantize: Quantize,
    *,
    config: PreTrainedConfig | None = None,
    suffix: str | tuple[str, ...] = "_proj.weight",
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Writes a model into `folder` in which weights with `suffix` are stored as `quantize` says; gives all weights."""
    config = config or llama()
    torch.manual_seed(1)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in build(config).state_dict().items():
        stored, weights[name] = quantize(name, value) if name.endswith(suffix) else ({name: value.clone()}, value)
        tensors |= {key: tensor.contiguous() for key, tensor in stored.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt", **(metadata or {})})
    config.save_pretrained(folder)
    if quantization is not None:
        change_config(folder, quantization_config=quantization)
    return weights


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit(folder: Path, changes: Mapping[str, Tensor | None]) -> None:
    """Replaces stored tensors, or drops those given as None."""
    path = folder / FILE
    kept = {name: tensor for name, tensor in {**load_file(path), **changes}.items() if tensor is not None}
    save_file(kept, path, metadata=dict(SafetensorsFile(path).metadata))


def check(folder: Path, weights: Mapping[str, Tensor], told: str) -> Source:
    """The source of `folder` has `weights`, also by rows and headers, loses no tensor and computes what they say."""
    source = load_source(folder)
    for name, value in weights.items():
        read = source.weights.read(name)
        assert read.dtype == source.weights.dtype(name) == torch.float32
        assert torch.equal(read, value), name
        size = len(value)
        for start, stop in ((0, size), (size // 3, size // 2), (size // 2, size // 2), (size - 1, size)):
            assert torch.equal(source.weights.read_rows(name, start, stop), value[start:stop]), (name, start, stop)
    assert told in source.notes
    _check_accounts(source, load_file(folder / FILE))
    _check_headers(source, folder, weights)
    plain = build(source.config)
    plain.load_state_dict(dict(weights))
    with streamed(source) as module, torch.no_grad():
        ours, theirs = module(IDS, use_cache=False).logits, plain(IDS, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    return source


def _check_accounts(source: Source, stored: Mapping[str, Tensor]) -> None:
    rows = account(source, [name for name, _ in source.module.named_parameters()])
    assert {row.name: row.nbytes for row in rows} == {name: tensor.nbytes for name, tensor in stored.items()}
    assert {row.status for row in rows} == {"used"}
    hashed = {name: b"".join(map(bytes, pieces)) for name, pieces in contents(source).items()}
    assert hashed == {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in stored.items()}
    assert {name: checkpoint_of(source).dtype(name) for name in stored} == {n: t.dtype for n, t in stored.items()}


def _check_headers(source: Source, folder: Path, weights: Mapping[str, Tensor]) -> None:
    file = SafetensorsFile(folder / FILE)
    headers = {name: Header(entry.shape, entry.dtype) for name, entry in file.entries.items()}
    shapes = {name: tuple(value.shape) for name, value in source.module.state_dict().items()}
    planned, notes = decoded(HeaderWeights(headers, file.metadata), read_quantization(folder), shapes)
    assert {name: planned.shape(name) for name in planned.names()} == {n: tuple(t.shape) for n, t in weights.items()}
    assert {planned.dtype(name) for name in planned.names()} == {torch.float32}
    assert notes == source.notes


def words(values: Tensor, bits: int) -> Tensor:
    """Unsigned numbers [rows, n] as int32 [rows, n · bits / 32]: a row is a stream of bits, the lowest first."""
    stream = ((values.numpy().astype(np.int64)[..., None] >> np.arange(bits)) & 1).astype(np.uint8)
    packed = np.packbits(stream.reshape(len(values), -1), axis=1, bitorder="little")
    return torch.from_numpy(packed.view("<i4").astype(np.int32))


def integers(shape: Any, low: int, high: int) -> Tensor:
    """Random integers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, tuple(shape))


def scales(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return (torch.rand(shape) * 0.02 + 0.001).to(dtype)
