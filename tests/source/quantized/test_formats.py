"""What is said of a checkpoint that is quantized otherwise, or not at all, and what stays as it is."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoconvert.errors import InputError
from autoconvert.source.accounting import account
from autoconvert.source.header_weights import Header, HeaderWeights
from autoconvert.source.likeness import likeness_in, write_likeness
from autoconvert.source.quantized.settings import quantization_in
from autoconvert.source.safetensors_file import SafetensorsFile
from autoconvert.source.source import load_source, plan_source
from autoconvert.source.tensors import checkpoint_of
from autoconvert.system.hashing import digest_of
from tests.source.tiny import build, gpt2, mixtral

from .packed import FILE, QUERY, change_config, check, edit, save, scales


def plain(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return {name: weight}, weight


def rows(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    values, scale = (weight * 1000).to(torch.float8_e4m3fn), scales(len(weight), 1, dtype=torch.float32)
    return {name: values, f"{name}_scale_inv": scale}, values.float() * scale


FP8 = {"quant_method": "fp8", "weight_block_size": None}
TOLD = "7 weights are decoded from FP8 with a scale for each row"


def test_an_unknown_method_is_named_with_what_is_known(tmp_path: Path) -> None:
    save(tmp_path, {"quant_method": "hqq", "bits": 4}, plain)
    with pytest.raises(InputError, match=r"config\.json: the checkpoint is quantized already \(hqq\)") as caught:
        load_source(tmp_path)
    assert "gptq" in caught.value.hint and "original checkpoint" in caught.value.hint


@pytest.mark.parametrize("fields", [{"bits": 4}, "gptq", {"quant_method": 4}, {"quant_method": "gptq", "bits": "four"}])
def test_a_field_that_is_none_is_an_input_error(fields: object, tmp_path: Path) -> None:
    save(tmp_path, None, lambda name, weight: ({f"{name[:-6]}qweight": torch.zeros(1, dtype=torch.int32)}, weight))
    change_config(tmp_path, quantization_config=fields)
    with pytest.raises(InputError):
        load_source(tmp_path)


def test_packed_weights_that_no_configuration_explains_are_named(tmp_path: Path) -> None:
    save(tmp_path, None, lambda name, weight: ({f"{name[:-6]}qweight": weight}, weight))
    with pytest.raises(InputError, match=r"\.qweight: a packed weight, and config\.json has no quantization_config"):
        load_source(tmp_path)


def test_weights_that_are_stored_as_they_are_are_read_so(tmp_path: Path) -> None:
    weights = save(tmp_path, {"quant_method": "gptq", "bits": 4}, plain)
    check(tmp_path, weights, "config.json names gptq, but every weight is stored as it is")


def test_the_configuration_of_the_text_counts_too(tmp_path: Path) -> None:
    found = quantization_in(tmp_path, {"text_config": {"quantization_config": {"quant_method": "GPTQ"}}})
    assert found is not None and found.method == "gptq"
    assert quantization_in(tmp_path, {"quantization_config": None, "text_config": None}) is None


def test_names_may_have_a_prefix(tmp_path: Path) -> None:
    weights = save(tmp_path, FP8, rows)
    tensors = {f"wrapped.{name}": tensor for name, tensor in load_file(tmp_path / FILE).items()}
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    source = load_source(tmp_path)
    assert torch.equal(source.weights.read(f"{QUERY}.weight"), weights[f"{QUERY}.weight"])
    found = account(source, [name for name, _ in source.module.named_parameters()])
    assert len(found) == len(tensors) and {row.status for row in found} == {"used"}


def test_what_no_weight_is_made_of_has_a_row_of_its_own(tmp_path: Path) -> None:
    save(tmp_path, FP8, rows)
    edit(tmp_path, {f"{QUERY}.activation_scale": torch.ones(())})
    other = rows("x", torch.randn(8, 8))[0]
    edit(tmp_path, {"other.weight": other["x"], "other.weight_scale_inv": other["x_scale_inv"]})
    source = load_source(tmp_path)
    found = account(source, [name for name, _ in source.module.named_parameters()])
    left = {row.name: row.reason for row in found if row.status == "left out"}
    names = (f"{QUERY}.activation_scale", "other.weight", "other.weight_scale_inv")
    assert left == dict.fromkeys(names, "the module has no such tensor")


def test_another_scale_is_another_hash(tmp_path: Path) -> None:
    save(tmp_path, FP8, rows)
    name = f"{QUERY}.weight_scale_inv"

    def digests() -> list[str]:
        stored = checkpoint_of(load_source(tmp_path))
        return [digest_of(stored.pieces(each)) for each in (name, f"{QUERY}.weight")]

    before = digests()
    edit(tmp_path, {name: torch.full((64, 1), 0.5)})
    after = digests()
    assert before[0] != after[0] and before[1] == after[1]


def test_a_weight_that_is_stored_twice_is_an_input_error(tmp_path: Path) -> None:
    save(tmp_path, {"quant_method": "mxfp4"}, plain)
    data = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    edit(tmp_path, {f"{QUERY}.weight_blocks": data, f"{QUERY}.weight_scales": data[..., 0].clone()})
    with pytest.raises(InputError, match=r"q_proj\.weight: stored, and .*q_proj\.weight_blocks"):
        load_source(tmp_path)


def test_layers_that_exchange_axes_are_refused(tmp_path: Path) -> None:
    save(tmp_path, FP8, rows, config=gpt2(), suffix="c_proj.weight")
    with pytest.raises(InputError, match=r"c_proj\.weight: a quantized weight of a Conv1D"):
        load_source(tmp_path)


def test_a_likeness_is_made_and_read_without_quantization(tmp_path: Path) -> None:
    save(tmp_path, FP8, rows)
    source = load_source(tmp_path)
    likeness = tmp_path / "likeness"
    likeness.mkdir()
    (likeness / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    assert write_likeness(source, likeness) == ""
    assert likeness_in(likeness, "alike").weights.shape(f"{QUERY}.weight") == (64, 64)


def test_nothing_larger_than_a_chunk_is_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = save(tmp_path, FP8, rows)
    monkeypatch.setattr("autoconvert.source.quantized.decoding._CHUNK", 200)
    check(tmp_path, weights, TOLD)


def test_a_plan_needs_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, FP8, rows)
    whole = load_source(tmp_path)
    entries = SafetensorsFile(tmp_path / FILE).entries
    headers = HeaderWeights({name: Header(entry.shape, entry.dtype) for name, entry in entries.items()})
    monkeypatch.setattr("autoconvert.source.source.fetch_headers", lambda *_, **__: (tmp_path, headers))
    source = plan_source("someone/tiny-model")
    parameters = [name for name, _ in source.module.named_parameters()]
    assert account(source, parameters) == account(whole, parameters)
    assert source.notes == whole.notes == (TOLD, "activations are not rounded, as the checkpoint's own kernels do")
    assert [source.weights.shape(name) for name in parameters] == [whole.weights.shape(name) for name in parameters]
    with pytest.raises(InputError, match="was not downloaded"):
        source.weights.read(f"{QUERY}.weight")


def test_experts_are_decoded_before_they_are_stacked(tmp_path: Path) -> None:
    build(mixtral()).save_pretrained(tmp_path)
    stored, decoded = {}, {}
    for name, tensor in load_file(tmp_path / FILE).items():
        stored[name] = decoded[name] = tensor
        if ".experts." in name:
            parts, decoded[name] = rows(name, tensor)
            stored |= parts
    save_file(stored, tmp_path / FILE, metadata={"format": "pt"})
    change_config(tmp_path, quantization_config=FP8)
    source = load_source(tmp_path)
    stack = source.weights.read_rows("model.layers.1.mlp.experts.down_proj", 1, 3)
    for expert in (1, 2):
        assert torch.equal(stack[expert - 1], decoded[f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"])
    found = account(source, [name for name, _ in source.module.named_parameters()])
    assert {row.name for row in found} == set(stored) and {row.status for row in found} == {"used"}
