"""bitsandbytes: codes of a table in blocks of the flattened weight, scales in blocks too, and rows of bytes."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.source.config import read_quantization
from autoconvert.source.header_weights import Header, HeaderWeights
from autoconvert.source.quantized.formats import decoded
from autoconvert.source.source import load_source

from .packed import QUERY, Quantize, check, edit, integers, save

CONFIG = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True}
BLOCK, NESTED_BLOCK = 64, 32
STATE = f"{QUERY}.weight.quant_state.bitsandbytes__nf4"


def quantizer(kind: str = "nf4", *, nested: bool = False, storage: torch.dtype = torch.uint8) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        codes, table = integers((weight.numel(),), 0, 15), torch.linspace(-1, 1, 16) ** 3
        blocks = -(-weight.numel() // BLOCK)
        state: dict[str, object] = {
            "quant_type": kind,
            "blocksize": BLOCK,
            "dtype": "bfloat16",
            "shape": [*weight.shape],
        }
        packed = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)
        stored = {name: packed.view(storage)[:, None], f"{name}.quant_map": table}
        if nested:
            index, maps = integers((blocks,), 0, 255).to(torch.uint8), torch.linspace(-1, 1, 256)
            absmax = torch.rand(-(-blocks // NESTED_BLOCK))
            state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": 0.0432}
            scale = maps[index.long()] * absmax.repeat_interleave(NESTED_BLOCK)[:blocks] + 0.0432
            stored |= {f"{name}.absmax": index, f"{name}.nested_absmax": absmax, f"{name}.nested_quant_map": maps}
        else:
            scale = torch.rand(blocks) * 0.1
            stored[f"{name}.absmax"] = scale
        stored[f"{name}.quant_state.bitsandbytes__{kind}"] = torch.tensor(
            [*json.dumps(state).encode()], dtype=torch.uint8
        )
        spread = scale.repeat_interleave(BLOCK)[: weight.numel()]
        return stored, (table[codes] * spread).reshape(weight.shape)

    return quantize


def eight_bits(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    stem = name.removesuffix(".weight")
    values, scale = integers(weight.shape, -127, 127).to(torch.int8), torch.rand(len(weight))
    stored = {name: values, f"{stem}.SCB": scale, f"{stem}.weight_format": torch.tensor(0, dtype=torch.uint8)}
    return stored, values.float() * (scale / 127)[:, None]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_four_bits(kind: str, nested: bool, tmp_path: Path) -> None:
    weights = save(tmp_path, CONFIG, quantizer(kind, nested=nested))
    check(tmp_path, weights, f"7 weights are decoded from bitsandbytes, {kind} in blocks of 64")


def test_bytes_in_a_wider_dtype(tmp_path: Path) -> None:
    weights = save(tmp_path, CONFIG, quantizer(storage=torch.bfloat16))
    check(tmp_path, weights, "7 weights are decoded from bitsandbytes, nf4 in blocks of 64")


def test_eight_bits(tmp_path: Path) -> None:
    weights = save(tmp_path, EIGHT, eight_bits)
    check(tmp_path, weights, "7 weights are decoded from bitsandbytes, 8 bits with a scale for each row")


@pytest.mark.parametrize("quantize", [quantizer(), eight_bits])
def test_a_configuration_that_has_lost_its_field(quantize: Quantize, tmp_path: Path) -> None:
    weights = save(tmp_path, None, quantize)
    told = "nf4 in blocks of 64" if quantize is not eight_bits else "8 bits with a scale for each row"
    source = check(tmp_path, weights, f"7 weights are decoded from bitsandbytes, {told}")
    assert "config.json does not say that it is quantized" in source.notes


def test_flags_name_the_method_too(tmp_path: Path) -> None:
    weights = save(tmp_path, {"load_in_8bit": True}, eight_bits)
    check(tmp_path, weights, "7 weights are decoded from bitsandbytes, 8 bits with a scale for each row")


@pytest.mark.parametrize(
    "part", ["absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4"]
)
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer(nested=True))
    edit(tmp_path, {f"{QUERY}.weight.{part}": None})
    with pytest.raises(InputError, match=rf"q_proj\.weight\.{part}: the checkpoint has no tensor for it"):
        load_source(tmp_path)


@pytest.mark.parametrize(
    "part, tensor",
    [
        ("weight.absmax", torch.ones(3)),
        ("weight.quant_map", torch.ones(15)),
        ("weight", torch.zeros(1000, 1, dtype=torch.uint8)),
    ],
)
def test_a_part_of_another_shape_is_named(part: str, tensor: Tensor, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer())
    edit(tmp_path, {f"{QUERY}.{part}": tensor})
    with pytest.raises(InputError, match=rf"q_proj\.{part}: shape .* was expected"):
        load_source(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"shape": [64, 64]}', b'{"shape": [0], "blocksize": 64}', b"\xff"]
)
def test_a_state_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer())
    edit(tmp_path, {STATE: torch.tensor([*content], dtype=torch.uint8)})
    with pytest.raises(InputError, match=r"quant_state\.bitsandbytes__nf4: (not the JSON|a shape of)"):
        load_source(tmp_path)


def test_rows_in_another_order_are_refused(tmp_path: Path) -> None:
    save(tmp_path, EIGHT, eight_bits)
    edit(tmp_path, {f"{QUERY}.weight_format": torch.tensor(1, dtype=torch.uint8)})
    with pytest.raises(InputError, match=r"q_proj\.weight_format: rows are stored in an order of bitsandbytes' own"):
        load_source(tmp_path).weights.read(f"{QUERY}.weight")


def test_headers_alone_do_not_tell_the_shape_of_what_the_module_does_not_have(tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer())
    headers = {f"{QUERY}.weight{part}": Header((64,), "F32") for part in (".absmax", "")}
    headers |= {f"{QUERY}.weight.quant_map": Header((16,), "F32"), STATE: Header((9,), "U8")}
    with pytest.raises(InputError, match="the shape of its weight is in the data"):
        decoded(HeaderWeights(headers), read_quantization(tmp_path), {})
