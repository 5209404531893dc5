"""AWQ: the interleaved order of its nibbles, and what else it may store."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.source.source import load_source

from .packed import QUERY, Quantize, check, edit, integers, save, scales

CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack(values: Tensor) -> Tensor:
    """AutoAWQ's WQLinear_GEMM.from_linear: nibble i of a word is its output ORDER[i]."""
    eights = values.reshape(len(values), -1, 8)
    packed = sum(eights[..., output] << (4 * nibble) for nibble, output in enumerate(ORDER))
    assert isinstance(packed, Tensor)
    return (packed - ((packed >> 31) << 32)).to(torch.int32)


def quantizer(group: int) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        stem = name.removesuffix(".weight")
        outputs, inputs = weight.shape
        size = inputs if group == -1 else group
        values, zeros = integers((inputs, outputs), 0, 15), integers((inputs // size, outputs), 0, 15)
        scale = scales(inputs // size, outputs)
        of = torch.arange(inputs) // size
        stored = {f"{stem}.qweight": pack(values), f"{stem}.qzeros": pack(zeros), f"{stem}.scales": scale}
        return stored, ((values - zeros[of]).float() * scale[of].float()).T

    return quantize


def test_groups(tmp_path: Path) -> None:
    weights = save(tmp_path, CONFIG, quantizer(32))
    check(tmp_path, weights, "7 weights are decoded from AWQ, 4 bits in groups of 32")


def test_one_group_for_all_inputs(tmp_path: Path) -> None:
    weights = save(tmp_path, {**CONFIG, "group_size": -1}, quantizer(-1))
    source = check(tmp_path, weights, "6 weights are decoded from AWQ, 4 bits in groups of 64")
    assert "1 weight is decoded from AWQ, 4 bits in groups of 96" in source.notes


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer(32))
    edit(tmp_path, {f"{QUERY}.{part}": None})
    with pytest.raises(InputError, match=rf"q_proj\.{part}: the checkpoint has no tensor for it"):
        load_source(tmp_path)


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_part_of_another_shape_is_named(part: str, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer(32))
    dtype = torch.float16 if part == "scales" else torch.int32
    edit(tmp_path, {f"{QUERY}.{part}": torch.ones(1, 7, dtype=dtype)})
    with pytest.raises(InputError, match=rf"q_proj\.{part}: shape \[1, 7\], where .* was expected"):
        load_source(tmp_path)


@pytest.mark.parametrize("option", [{"version": "gemv"}, {"version": "GEMV_FAST"}, {"bits": 8}, {"backend": "llm-awq"}])
def test_other_layouts_are_refused(option: dict[str, object], tmp_path: Path) -> None:
    save(tmp_path, {**CONFIG, **option}, quantizer(32))
    with pytest.raises(InputError, match=r"config\.json: the checkpoint is quantized by awq with .* not supported yet"):
        load_source(tmp_path)


def test_a_scale_of_activations_is_refused(tmp_path: Path) -> None:
    save(tmp_path, CONFIG, quantizer(32))
    edit(tmp_path, {"model.layers.0.mlp.act.scales": torch.ones(96)})
    with pytest.raises(InputError, match=r"mlp\.act\.scales: AWQ divides the values of an activation by it"):
        load_source(tmp_path)
