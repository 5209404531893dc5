"""FP8: scales for blocks, rows and all, beside transformers' own decoder."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from autoconvert.errors import InputError
from autoconvert.source.source import load_source

from .packed import QUERY, Quantize, check, edit, save, scales

NOTE = "activations are not rounded, as the checkpoint's own kernels do"


def quantizer(rows: int, columns: int, *, dtype: torch.dtype = torch.float32) -> Quantize:
    """Blocks of `rows` × `columns`, the last ones cut off."""

    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = (weight * 1000).to(torch.float8_e4m3fn)
        outputs, inputs = weight.shape
        scale = scales(-(-outputs // rows), -(-inputs // columns), dtype=dtype)
        spread = scale.float().repeat_interleave(rows, 0)[:outputs].repeat_interleave(columns, 1)[:, :inputs]
        return {name: values, f"{name}_scale_inv": scale}, values.float() * spread

    return quantize


def config(*block: int) -> dict[str, object]:
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block) or None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_as_transformers_decodes_them(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = save(tmp_path, config(32, 32), quantizer(32, 32, dtype=dtype))
    source = check(tmp_path, weights, "7 weights are decoded from FP8 in blocks of 32 × 32")
    assert NOTE in source.notes
    name = f"{QUERY}.weight"
    stored = [source.weights.checkpoint.read(each) for each in (name, f"{name}_scale_inv")]  # type: ignore[attr-defined]
    theirs = Fp8Dequantize(None)._dequantize_one(*stored, output_dtype=torch.float32)
    assert torch.equal(source.weights.read(name), theirs)


def test_the_last_blocks_may_be_cut_off(tmp_path: Path) -> None:
    weights = save(tmp_path, config(64, 64), quantizer(64, 64))
    source = check(tmp_path, weights, "3 weights are decoded from FP8 in blocks of 64 × 64")
    assert "4 weights are decoded from FP8 with one scale each" in source.notes


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.uint8])
def test_scales_that_are_powers_of_two(dtype: torch.dtype, tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = (weight * 1000).to(torch.float8_e4m3fn)
        scale = torch.tensor([[0.25, 2.0**-12]]).to(torch.float8_e8m0fnu)
        decoded = values.float() * scale.float().repeat_interleave(weight.shape[1] // 2, 1)
        return {name: values, f"{name}_scale_inv": scale.view(dtype)}, decoded

    weights = save(tmp_path, config(), quantize)
    check(tmp_path, weights, "1 weight is decoded from FP8 in blocks of 64 × 48")


def test_one_scale_for_all(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = (weight * 1000).to(torch.float8_e4m3fn)
        return {name: values, f"{name}_scale_inv": torch.tensor(0.001)}, values.float() * torch.tensor(0.001)

    weights = save(tmp_path, config(), quantize)
    check(tmp_path, weights, "7 weights are decoded from FP8 with one scale each")


def test_a_scale_for_each_row(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = (weight * 1000).to(torch.float8_e4m3fn)
        scale = scales(len(weight), 1, dtype=torch.float32)
        return {name: values, f"{name}_scale": scale}, values.float() * scale

    weights = save(tmp_path, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, quantize)
    check(tmp_path, weights, "7 weights are decoded from FP8 with a scale for each row")


def test_missing_scales_are_named(tmp_path: Path) -> None:
    save(tmp_path, config(32, 32), quantizer(32, 32))
    edit(tmp_path, {f"{QUERY}.weight_scale_inv": None})
    with pytest.raises(InputError, match=r"q_proj\.weight_scale_inv: the checkpoint has no tensor for it"):
        load_source(tmp_path)


@pytest.mark.parametrize("scale", [torch.ones(3, 5), torch.ones(2, 2, dtype=torch.int32)])
def test_scales_that_do_not_fit_are_named(scale: Tensor, tmp_path: Path) -> None:
    save(tmp_path, config(32, 32), quantizer(32, 32))
    edit(tmp_path, {f"{QUERY}.weight_scale_inv": scale})
    with pytest.raises(InputError, match=r"q_proj\.weight_scale_inv: (shape|dtype) .* was expected"):
        load_source(tmp_path)


def test_a_block_size_that_is_none_is_refused(tmp_path: Path) -> None:
    save(tmp_path, {**config(), "weight_block_size": [0, "x"]}, quantizer(32, 32))
    with pytest.raises(InputError, match=r"with weight_block_size \[0, 'x'\]"):
        load_source(tmp_path)
