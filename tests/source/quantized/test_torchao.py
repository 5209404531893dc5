"""torchao: the tensors of its subclasses, as its own functions flatten and decode them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.source.source import load_source

from .packed import FILE, QUERY, Quantize, check, edit, integers, save, scales

CONFIG = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}}


def described(kind: str, *names: str) -> dict[str, str]:
    """Metadata of the weights of a model's linear layers."""
    layer = "model.layers.0"
    stems = [f"{layer}.self_attn.{each}_proj" for each in "qkvo"] + [
        f"{layer}.mlp.{e}_proj" for e in ("gate", "up", "down")
    ]
    text = json.dumps({"_type": kind, "_data": {}, "_tensor_data_names": names or ["qdata", "scale"]})
    described = {f"{stem}.weight": text for stem in stems}
    plain = json.dumps({"_type": "Tensor"})
    return {**described, "lm_head.weight": plain, "tensor_names": json.dumps([*described, "lm_head.weight"])}


def quantizer(kind: str, group: int | None = None) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        stem, size = name.removesuffix("weight") + "_weight", group or weight.shape[1]
        dtype = torch.float8_e4m3fn if kind == "Float8Tensor" else torch.int8
        values, grid = integers(weight.shape, -8, 7).to(dtype), (len(weight), weight.shape[1] // size)
        scale = scales(*grid, dtype=torch.bfloat16)
        stored = {f"{stem}_qdata": values, f"{stem}_scale": scale}
        zeros = torch.zeros(grid)
        if kind == "IntxUnpackedToInt8Tensor":
            stored[f"{stem}_zero_point"] = zeros = integers(grid, -8, 7).to(torch.int8)
        spread = [each.float().repeat_interleave(size, 1) for each in (zeros, scale)]
        return stored, (values.float() - spread[0]) * spread[1]

    return quantize


@pytest.mark.parametrize("kind", ["Int8Tensor", "Float8Tensor"])
def test_rows(kind: str, tmp_path: Path) -> None:
    weights = save(tmp_path, CONFIG, quantizer(kind), metadata=described(kind))
    check(tmp_path, weights, f"7 weights are decoded from torchao's {kind} with a scale for each row")


def test_groups(tmp_path: Path) -> None:
    kind = "IntxUnpackedToInt8Tensor"
    metadata = described(kind, "qdata", "scale", "zero_point")
    weights = save(tmp_path, CONFIG, quantizer(kind, 32), metadata=metadata)
    check(tmp_path, weights, f"7 weights are decoded from torchao's {kind} in groups of 32")


@pytest.mark.parametrize("kind", ["int8", "intx", "float8"])
def test_tensors_that_torchao_itself_quantizes(kind: str, tmp_path: Path) -> None:
    workflows = pytest.importorskip("torchao.quantization")
    support = pytest.importorskip("torchao.prototype.safetensors.safetensors_support")
    metadata: dict[str, str] = {}

    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if kind == "int8":
            tensor = workflows.Int8Tensor.from_hp(weight, workflows.PerRow())
        elif kind == "float8":
            tensor = workflows.Float8Tensor.from_hp(weight, granularity=workflows.PerRow())
        else:
            tensor = workflows.IntxUnpackedToInt8Tensor.from_hp(weight, (1, 32), getattr(torch, "int4"))  # noqa: B009
        flat, described = support.flatten_tensor_state_dict({name: tensor})
        metadata.update(described)
        return flat, tensor.dequantize().float()

    weights = save(tmp_path, CONFIG, quantize)
    # What describes them is known when they are quantized.
    save_file(load_file(tmp_path / FILE), tmp_path / FILE, metadata={"format": "pt", **metadata})
    source = load_source(tmp_path)
    for name, value in weights.items():
        assert torch.equal(source.weights.read(name), value), name


@pytest.mark.parametrize("part", ["qdata", "scale"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer("Int8Tensor"), metadata=described("Int8Tensor"))
    edit(tmp_path, {f"{QUERY}._weight_{part}": None})
    with pytest.raises(InputError, match=rf"q_proj\._weight_{part}: the checkpoint has no tensor for it"):
        load_source(tmp_path)


@pytest.mark.parametrize("shape", [(64, 3), (63, 1)])
def test_scales_that_do_not_fit_are_named(shape: tuple[int, int], tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer("Int8Tensor"), metadata=described("Int8Tensor"))
    edit(tmp_path, {f"{QUERY}._weight_scale": scales(*shape)})
    with pytest.raises(InputError, match=r"q_proj\._weight_scale: shape .* was expected"):
        load_source(tmp_path)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer("Int8Tensor"), metadata=described("Int4TilePackedTo4dTensor"))
    with pytest.raises(InputError, match=r"quantized by torchao with .*_proj\.weight as Int4TilePackedTo4dTensor"):
        load_source(tmp_path)


def test_a_scale_of_activations_is_refused(tmp_path: Path) -> None:
    metadata = described("Int8Tensor", "qdata", "scale", "act_pre_scale")
    save(tmp_path, CONFIG, quantizer("Int8Tensor"), metadata=metadata)
    with pytest.raises(InputError, match=r"_proj\.weight: Int8Tensor with act_pre_scale"):
        load_source(tmp_path)


def test_files_that_do_not_describe_their_tensors_are_refused(tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer("Int8Tensor"))
    with pytest.raises(InputError, match="with no description of its tensors in the safetensors files"):
        load_source(tmp_path)
