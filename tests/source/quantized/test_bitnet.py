"""BitNet: four weights a byte, and a scale that one kind of layer multiplies by and the other divides by."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.bitnet import BitLinear, pack_weights, unpack_weights

from autoconvert.errors import InputError
from autoconvert.source.source import load_source

from .packed import QUERY, Quantize, check, edit, integers, save

NOTE = "activations are not rounded, as the checkpoint's own kernels do"


def pack(values: Tensor) -> Tensor:
    """−1, 0 and 1 of [out, in]: bits 2 i and 2 i + 1 of row r are output i · out / 4 + r, plus one."""
    quarters = (values + 1).reshape(4, -1, values.shape[1])
    return sum(quarters[run] << (2 * run) for run in range(4)).to(torch.uint8)  # type: ignore[union-attr]


def quantizer(divides: bool, packed: bool = True) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values, scale = integers(weight.shape, -1, 1), torch.tensor([1.17]).to(torch.bfloat16)
        decoded = values.float() * (1 / scale.float() if divides else scale.float())
        stored = pack(values) if packed else values.to(torch.bfloat16)
        return {name: stored, f"{name}_scale": scale}, decoded

    return quantize


@pytest.mark.parametrize("linear", ["bitlinear", "autobitlinear"])
def test_both_kinds_of_layers(linear: str, tmp_path: Path) -> None:
    config = {"quant_method": "bitnet", "linear_class": linear, "quantization_mode": "offline"}
    weights = save(tmp_path, config, quantizer(divides=linear == "bitlinear"))
    assert NOTE in check(tmp_path, weights, "7 weights are decoded from BitNet, 2 bits").notes


def test_weights_that_are_not_packed_have_a_scale_too(tmp_path: Path) -> None:
    config = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    weights = save(tmp_path, config, quantizer(divides=False, packed=False))
    check(tmp_path, weights, "7 weights are decoded from BitNet")


def test_bytes_are_those_of_transformers(tmp_path: Path) -> None:
    values = integers((32, 8), -1, 1)
    assert torch.equal(pack(values), pack_weights(values.clone()))
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(unpack_weights(pack(values), torch.float32), values.float())


def test_its_layer_computes_with_the_decoded_weight_where_activations_are_whole(tmp_path: Path) -> None:
    weights = save(tmp_path, {"quant_method": "bitnet"}, quantizer(divides=True))
    stored = load_source(tmp_path).weights.checkpoint  # type: ignore[attr-defined]
    layer = BitLinear(64, 64, bias=False, dtype=torch.float32)
    layer.weight.copy_(stored.read(f"{QUERY}.weight"))
    layer.weight_scale.copy_(stored.read(f"{QUERY}.weight_scale"))
    inputs = integers((3, 64), -126, 126).float()
    inputs[:, 0] = 127
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        theirs = layer(inputs)
    ours = functional.linear(inputs, weights[f"{QUERY}.weight"])
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_a_missing_scale_is_named(tmp_path: Path) -> None:
    save(tmp_path, {"quant_method": "bitnet"}, quantizer(divides=True))
    edit(tmp_path, {f"{QUERY}.weight_scale": None})
    with pytest.raises(InputError, match=r"q_proj\.weight_scale: the checkpoint has no tensor for it"):
        load_source(tmp_path)


def test_a_scale_for_each_row_is_none_of_bitnet(tmp_path: Path) -> None:
    save(tmp_path, {"quant_method": "bitnet"}, quantizer(divides=True))
    edit(tmp_path, {f"{QUERY}.weight_scale": torch.ones(64)})
    with pytest.raises(InputError, match=r"q_proj\.weight_scale: shape \[64\], where \[1\] or \[\] was expected"):
        load_source(tmp_path)


@pytest.mark.parametrize("option", [{"quantization_mode": "online"}, {"use_rms_norm": True}, {"linear_class": "other"}])
def test_what_the_plain_module_does_not_compute_is_refused(option: dict[str, object], tmp_path: Path) -> None:
    save(tmp_path, {"quant_method": "bitnet", **option}, quantizer(divides=True))
    with pytest.raises(InputError, match=r"quantized by bitnet with .* not supported yet"):
        load_source(tmp_path)
