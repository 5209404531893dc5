"""compressed-tensors: each of its formats, its groups of modules, and what it must not leave out."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.source.quantized.e2m1 import VALUES
from autoconvert.source.source import load_source

from .packed import QUERY, Quantize, change_config, check, edit, integers, save, scales, words

GROUP = 32


def config(
    storage: str, *, activations: object = None, targets: object = ("Linear",), **weights: object
) -> dict[str, object]:
    group = {"targets": targets, "weights": {"num_bits": 8, "type": "int", "symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": storage,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**group, "input_activations": activations}},
        "ignore": ["lm_head"],
    }


def packer(bits: int, *, group: int | None = GROUP, symmetric: bool = True, act_order: bool = False) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        outputs, inputs = weight.shape
        size, half = group or inputs, 1 << (bits - 1)
        values, zeros = integers(weight.shape, -half, half - 1), integers((outputs, inputs // size), -half, half - 1)
        scale, of = scales(outputs, inputs // size), torch.arange(inputs) // size
        stored = {f"{name}_packed": words(values + half, bits), f"{name}_scale": scale}
        stored[f"{name}_shape"] = torch.tensor(weight.shape)
        if act_order:
            of = of[torch.randperm(inputs)]
            stored[f"{name}_g_idx"] = of.int()
        if symmetric:
            zeros = zeros * 0
        else:
            stored[f"{name}_zero_point"] = words((zeros + half).T, bits).T
        return stored, (values - zeros[:, of]).float() * scale[:, of].float()

    return quantize


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_groups(bits: int, symmetric: bool, tmp_path: Path) -> None:
    named = config("pack-quantized", num_bits=bits, strategy="group", group_size=GROUP, symmetric=symmetric)
    weights = save(tmp_path, named, packer(bits, symmetric=symmetric))
    check(tmp_path, weights, f"7 weights are decoded from compressed-tensors, {bits} bits in groups of 32")


@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_rows(symmetric: bool, tmp_path: Path) -> None:
    named = config("pack-quantized", num_bits=4, strategy="channel", symmetric=symmetric)
    weights = save(tmp_path, named, packer(4, group=None, symmetric=symmetric))
    check(tmp_path, weights, "7 weights are decoded from compressed-tensors, 4 bits with a scale for each row")


def test_packed_groups_in_the_order_of_activations(tmp_path: Path) -> None:
    named = config("pack-quantized", num_bits=4, strategy="group", group_size=GROUP, actorder="group")
    weights = save(tmp_path, named, packer(4, act_order=True))
    check(tmp_path, weights, "7 weights are decoded from compressed-tensors, 4 bits in groups of 32")


def bytes_of(dtype: torch.dtype, *, symmetric: bool = True) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = integers(weight.shape, -100, 100).to(dtype)
        scale, zeros = (
            scales(len(weight), 1, dtype=torch.bfloat16),
            integers((len(weight), 1), -100, 100).to(torch.int8),
        )
        stored = {name: values, f"{name}_scale": scale}
        if symmetric:
            return stored, values.float() * scale.float()
        return {**stored, f"{name}_zero_point": zeros}, (values.float() - zeros.float()) * scale.float()

    return quantize


@pytest.mark.parametrize("storage", ["int-quantized", "naive-quantized"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers(storage: str, symmetric: bool, tmp_path: Path) -> None:
    named = config(storage, activations={"num_bits": 8}, strategy="channel", symmetric=symmetric)
    weights = save(tmp_path, named, bytes_of(torch.int8, symmetric=symmetric))
    source = check(tmp_path, weights, "7 weights are decoded from compressed-tensors, 8 bits with a scale for each row")
    assert "activations are not rounded, as the checkpoint's own kernels do" in source.notes


def test_floats(tmp_path: Path) -> None:
    weights = save(tmp_path, config("float-quantized", type="float"), bytes_of(torch.float8_e4m3fn))
    source = check(tmp_path, weights, "7 weights are decoded from compressed-tensors, FP8 with a scale for each row")
    assert len(source.notes) == 1


def test_floats_in_blocks(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = (weight * 100).to(torch.float8_e4m3fn)
        outputs, inputs = weight.shape
        scale = scales(-(-outputs // 64), -(-inputs // 64), dtype=torch.float32)
        spread = scale.repeat_interleave(64, 0)[:outputs].repeat_interleave(64, 1)[:, :inputs]
        return {name: values, f"{name}_scale": scale}, values.float() * spread

    named = config("float-quantized", type="float", strategy="block", block_structure=[64, 64])
    check(
        tmp_path,
        save(tmp_path, named, quantize),
        "3 weights are decoded from compressed-tensors, FP8 in blocks of 64 × 64",
    )


def test_one_scale_for_all(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values = (weight * 100).to(torch.float8_e4m3fn)
        return {name: values, f"{name}_scale": torch.tensor([0.01])}, values.float() * torch.tensor(0.01)

    weights = save(tmp_path, config("float-quantized", type="float", strategy="tensor"), quantize)
    check(tmp_path, weights, "7 weights are decoded from compressed-tensors, FP8 with one scale each")


@pytest.mark.parametrize("storage", ["nvfp4", "mxfp4"])
def test_floats_of_four_bits(storage: str, tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        codes, size = integers(weight.shape, 0, 15), 16 if storage == "nvfp4" else 32
        grid = (weight.shape[0], weight.shape[1] // size)
        stored = {f"{name}_packed": (codes[:, 0::2] | codes[:, 1::2] << 4).to(torch.uint8)}
        if storage == "nvfp4":
            stored[f"{name}_scale"] = (torch.rand(grid) * 400 + 1).to(torch.float8_e4m3fn)
            stored[f"{name}_global_scale"] = torch.tensor([3000.0])
            scale = stored[f"{name}_scale"].float() / 3000
        else:
            stored[f"{name}_scale"] = integers(grid, 118, 122).to(torch.uint8)
            scale = 2.0 ** (stored[f"{name}_scale"].float() - 127)
        return stored, torch.tensor(VALUES)[codes] * scale.repeat_interleave(size, 1)

    named = config(f"{storage}-pack-quantized", num_bits=4, type="float")
    told = f"{storage.upper()} in groups of {16 if storage == 'nvfp4' else 32}"
    check(tmp_path, save(tmp_path, named, quantize), f"7 weights are decoded from compressed-tensors, {told}")


def test_dense_weights_are_rounded_as_they_are_when_used(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values, scale = integers(weight.shape, -128, 127), scales(len(weight), 1, dtype=torch.bfloat16)
        stored = (values.float() * scale.float()).to(torch.bfloat16)
        return {name: stored, f"{name}_scale": scale}, values.float() * scale.float()

    named = {**config("dense", strategy="channel"), "quantization_status": "frozen"}
    weights = save(tmp_path, named, quantize)
    check(tmp_path, weights, "7 weights are decoded from compressed-tensors, 8 bits with a scale for each row")
    change_config(tmp_path, quantization_config={**named, "quantization_status": "calibration"})
    with pytest.raises(InputError, match="with quantization_status calibration: its scales are not final"):
        load_source(tmp_path)


def test_groups_of_modules_by_their_names(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return packer(8 if "self_attn" in name else 4)(name, weight)

    four = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": GROUP, "strategy": "group"}}
    eight = {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "group_size": GROUP, "strategy": "group"}}
    named = {**config("mixed-precision"), "config_groups": {"group_0": four, "group_1": eight}}
    weights = save(tmp_path, named, quantize)
    source = check(tmp_path, weights, "4 weights are decoded from compressed-tensors, 8 bits in groups of 32")
    assert "3 weights are decoded from compressed-tensors, 4 bits in groups of 32" in source.notes
    eight["targets"] = ["Linear"]
    change_config(tmp_path, quantization_config=named)
    with pytest.raises(InputError, match="with 2 groups of config_groups for model"):
        load_source(tmp_path)


def test_older_configurations(tmp_path: Path) -> None:
    inner = config("pack-quantized", num_bits=4, group_size=GROUP)
    weights = save(tmp_path, {"quantization_config": inner, "sparsity_config": {"format": "dense"}}, packer(4))
    told = "7 weights are decoded from compressed-tensors, 4 bits in groups of 32"
    check(tmp_path, weights, told)
    change_config(tmp_path, quantization_config=None, compression_config=inner)
    check(tmp_path, weights, told)


@pytest.mark.parametrize("part", ["packed", "scale", "zero_point"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    save(tmp_path, config("pack-quantized", num_bits=4, group_size=GROUP, symmetric=False), packer(4, symmetric=False))
    edit(tmp_path, {f"{QUERY}.weight_{part}": None})
    missing = r"weight" if part == "packed" else f"weight_{part}"
    with pytest.raises(InputError, match=rf"q_proj\.{missing}: the checkpoint has no tensor for it"):
        load_source(tmp_path)


def test_missing_scales_of_bytes_are_named(tmp_path: Path) -> None:
    save(tmp_path, config("int-quantized"), bytes_of(torch.int8))
    edit(tmp_path, {f"{QUERY}.weight_scale": None})
    with pytest.raises(InputError, match=r"q_proj\.weight_scale: the checkpoint has no tensor for it"):
        load_source(tmp_path)


@pytest.mark.parametrize("shape", [(64, 4), (2, 2), (63, 1)])
def test_scales_that_do_not_fit_are_named(shape: tuple[int, int], tmp_path: Path) -> None:
    save(tmp_path, config("pack-quantized", num_bits=4, group_size=GROUP), packer(4))
    edit(tmp_path, {f"{QUERY}.weight_scale": scales(*shape)})
    with pytest.raises(InputError, match=r"q_proj\.weight_scale: shape .* was expected"):
        load_source(tmp_path)


def test_a_stored_shape_that_is_another_is_named(tmp_path: Path) -> None:
    save(tmp_path, config("pack-quantized", num_bits=4, group_size=GROUP), packer(4))
    edit(tmp_path, {f"{QUERY}.weight_shape": torch.tensor([64, 63])})
    with pytest.raises(InputError, match=r"q_proj\.weight_shape: says \[64, 63\], where .* holds \[64, 64\]"):
        load_source(tmp_path).weights.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "marlin-24"},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"transform_config": {"config_groups": {"R1": {}}}},
        {"config_groups": {}},
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 16}}}},
    ],
)
def test_other_options_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    save(tmp_path, {**config("pack-quantized", num_bits=4), **changes}, packer(4))
    with pytest.raises(InputError, match=r"quantized by compressed-tensors with .* not supported yet"):
        load_source(tmp_path)


def test_numbers_across_words_are_refused(tmp_path: Path) -> None:
    save(tmp_path, config("pack-quantized", num_bits=3), packer(4))
    with pytest.raises(InputError, match=r"_packed: numbers of 3 bits packed by compressed-tensors are not supported"):
        load_source(tmp_path)
