"""GPTQ: every width, both versions of its zero points, groups of neighbours and groups in any order."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.source.source import load_source

from .packed import QUERY, Quantize, change_config, check, edit, integers, save, scales, words

GROUP = 32


def quantizer(bits: int, *, less: int = 1, act_order: bool = False, with_groups: bool = True) -> Quantize:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        stem = name.removesuffix(".weight")
        outputs, inputs = weight.shape
        group = torch.arange(inputs) // GROUP
        if act_order:
            group = group[torch.randperm(inputs)]
        values, zeros = (
            integers((inputs, outputs), 0, 2**bits - 1),
            integers((inputs // GROUP, outputs), 1, 2**bits - 1),
        )
        scale = scales(inputs // GROUP, outputs)
        stored = {
            f"{stem}.qweight": words(values.T, bits).T,
            f"{stem}.qzeros": words(zeros - less, bits),
            f"{stem}.scales": scale,
        }
        if with_groups:
            stored[f"{stem}.g_idx"] = group.int()
        return stored, ((values - zeros[group]).float() * scale[group].float()).T

    return quantize


def config(bits: int, **changes: object) -> dict[str, object]:
    return {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": False, "desc_act": False, **changes}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_width(bits: int, tmp_path: Path) -> None:
    weights = save(tmp_path, config(bits), quantizer(bits))
    source = check(tmp_path, weights, f"7 weights are decoded from GPTQ, {bits} bits in groups of 32")
    assert not hasattr(source.config, "quantization_config")


@pytest.mark.parametrize("bits", [3, 4])
def test_the_second_version_stores_zero_points_as_they_are(bits: int, tmp_path: Path) -> None:
    weights = save(tmp_path, config(bits, checkpoint_format="gptq_v2"), quantizer(bits, less=0))
    check(tmp_path, weights, f"7 weights are decoded from GPTQ, {bits} bits in groups of 32")


def test_groups_in_the_order_of_activations(tmp_path: Path) -> None:
    weights = save(tmp_path, config(4, desc_act=True), quantizer(4, act_order=True))
    check(tmp_path, weights, "7 weights are decoded from GPTQ, 4 bits in groups of 32")


def test_groups_of_neighbours_need_no_index(tmp_path: Path) -> None:
    weights = save(tmp_path, config(4), quantizer(4, with_groups=False))
    check(tmp_path, weights, "7 weights are decoded from GPTQ, 4 bits in groups of 32")


def test_modules_of_other_widths_say_so_by_their_shapes(tmp_path: Path) -> None:
    def quantize(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return quantizer(8 if "self_attn" in name else 4)(name, weight)

    weights = save(tmp_path, config(4, dynamic={".*self_attn.*": {"bits": 8}}), quantize)
    source = check(tmp_path, weights, "4 weights are decoded from GPTQ, 8 bits in groups of 32")
    assert "3 weights are decoded from GPTQ, 4 bits in groups of 32" in source.notes
    change_config(tmp_path, quantization_config=config(4))
    with pytest.raises(InputError, match=r"_proj\.qzeros: shape .* zero points of 4 bits for \d+ outputs"):
        load_source(tmp_path)


def test_a_borrow_from_a_zero_point_of_zero_is_undone(tmp_path: Path) -> None:
    save(tmp_path, config(4), quantizer(4))
    zeros, scale = integers((2, 64), 0, 15), scales(2, 64)
    zeros[0, :3] = 0
    # As GPTQModel's convert_gptq_v2_to_v1_format writes them.
    stored = {"qzeros": words(zeros, 4) - 0x11111111, "scales": scale, "qweight": torch.zeros(8, 64, dtype=torch.int32)}
    edit(tmp_path, {f"{QUERY}.{part}": tensor for part, tensor in stored.items()})
    expected = (-zeros.float() * scale.float()).T.repeat_interleave(GROUP, 1)
    assert torch.equal(load_source(tmp_path).weights.read(f"{QUERY}.weight"), expected)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_part_is_named(part: str, tmp_path: Path) -> None:
    save(tmp_path, config(4), quantizer(4))
    edit(tmp_path, {f"{QUERY}.{part}": None})
    with pytest.raises(InputError, match=rf"q_proj\.{part}: the checkpoint has no tensor for it, and .*q_proj\.weight"):
        load_source(tmp_path)


@pytest.mark.parametrize(
    "part, tensor",
    [
        ("scales", torch.ones(3, 64)),
        ("qzeros", torch.zeros(3, 8, dtype=torch.int32)),
        ("qzeros", torch.zeros(2, 8)),
        ("g_idx", torch.zeros(65, dtype=torch.int32)),
        ("scales", torch.ones(2, 64, dtype=torch.int32)),
    ],
)
def test_a_part_that_does_not_fit_is_named(part: str, tensor: Tensor, tmp_path: Path) -> None:
    save(tmp_path, config(4), quantizer(4))
    edit(tmp_path, {f"{QUERY}.{part}": tensor})
    with pytest.raises(InputError, match=r"q_proj\.\w+: (shape|dtype) .* was expected"):
        load_source(tmp_path)


def test_a_group_that_is_not_there_is_named_when_it_is_read(tmp_path: Path) -> None:
    save(tmp_path, config(4), quantizer(4))
    edit(tmp_path, {f"{QUERY}.g_idx": torch.full((64,), 2, dtype=torch.int32)})
    with pytest.raises(InputError, match=r"q_proj\.g_idx: names groups 2 to 2, where there are 2"):
        load_source(tmp_path).weights.read(f"{QUERY}.weight")


@pytest.mark.parametrize(
    "option",
    [
        {"checkpoint_format": "marlin"},
        {"checkpoint_format": "gptq", "format": "gptq_p"},
        {"is_marlin_format": True},
        {"adapter": {"rank": 4}},
    ],
)
def test_other_layouts_are_refused(option: dict[str, object], tmp_path: Path) -> None:
    save(tmp_path, config(4, **option), quantizer(4))
    with pytest.raises(
        InputError, match=r"config\.json: the checkpoint is quantized by gptq with .* not supported yet"
    ):
        load_source(tmp_path)


def test_of_a_packed_weight_only_its_own_tensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, config(4), quantizer(4))
    weights = load_source(tmp_path).weights
    read: list[str] = []
    from autoconvert.source.checkpoint import SafetensorsCheckpoint

    whole = SafetensorsCheckpoint.read

    def note(self: SafetensorsCheckpoint, name: str) -> Tensor:
        read.append(name)
        return whole(self, name)

    monkeypatch.setattr(SafetensorsCheckpoint, "read", note)
    for row in range(8):
        weights.read_rows(f"{QUERY}.weight", row, row + 1)
    assert sorted(read) == [f"{QUERY}.{part}" for part in ("g_idx", "qweight", "qzeros", "scales")]
