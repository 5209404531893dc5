"""Every tensor of a checkpoint has a row, and what is missing is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoconvert.errors import InputError
from autoconvert.source.accounting import Row, account
from autoconvert.source.source import Source, load_source

from .tiny import build, llama, mixtral

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def parameters(source: Source) -> list[str]:
    return [name for name, _ in source.module.named_parameters()]


def rows(source: Source, used: list[str]) -> dict[str, Row]:
    return {row.name: row for row in account(source, used)}


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of the checkpoint, or drop those given as None."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata={"format": "pt"})


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    build(llama(tie_word_embeddings=True)).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    build(llama()).save_pretrained(tmp_path)
    return tmp_path


def test_everything_is_used_by_a_graph_that_reaches_everything(untied: Path) -> None:
    source = load_source(untied)
    found = rows(source, parameters(source))
    assert found.keys() == load_file(untied / "model.safetensors").keys()
    assert {row.status for row in found.values()} == {"used"}
    assert found[QUERY] == Row(QUERY, "used", f"is {QUERY}", 32 * 32 * 4)


def test_stacked_experts_are_all_used(tmp_path: Path) -> None:
    build(mixtral()).save_pretrained(tmp_path)
    source = load_source(tmp_path)
    found = rows(source, parameters(source))
    expert = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    assert found[expert].reason == "is model.layers.1.mlp.experts.down_proj"
    assert {row.status for row in found.values()} == {"used"}


def test_what_the_graph_does_not_reach_is_left_out(untied: Path) -> None:
    edit(untied, **{"vision_tower.weight": torch.ones(3)})
    source = load_source(untied)
    found = rows(source, [name for name in parameters(source) if name != QUERY])
    assert found[QUERY].status == found["vision_tower.weight"].status == "left out"
    assert found[QUERY].reason == f"the traced graph does not reach {QUERY}"
    assert found["vision_tower.weight"].reason == "the module has no such tensor"
    assert sum(row.status == "left out" for row in found.values()) == 2


@pytest.mark.parametrize("used", [EMBEDDING, HEAD])
@pytest.mark.parametrize("held", [EMBEDDING, HEAD])
def test_a_tied_parameter_may_be_saved_under_either_name(tied: Path, used: str, held: str) -> None:
    values = load_file(tied / "model.safetensors")[EMBEDDING]
    edit(tied, **{EMBEDDING: None, held: values})
    source = load_source(tied)
    found = rows(source, [used])
    assert found[held].status == "used"
    assert torch.equal(source.weights.read(EMBEDDING), values)
    assert torch.equal(source.weights.read(HEAD), values)
    assert source.module.get_parameter(EMBEDDING) is source.module.get_parameter(HEAD)


def test_the_second_of_two_equal_copies_is_tied(tied: Path) -> None:
    edit(tied, **{HEAD: load_file(tied / "model.safetensors")[EMBEDDING]})
    source = load_source(tied)
    found = rows(source, parameters(source))
    assert found[EMBEDDING].status == "used"
    assert found[HEAD].status == "tied"
    assert found[HEAD].reason == f"the same parameter as {EMBEDDING}"


def test_a_missing_tensor_is_named(untied: Path) -> None:
    edit(untied, **{QUERY: None})
    source = load_source(untied)
    with pytest.raises(InputError, match=rf"{QUERY}: the checkpoint has no tensor"):
        account(source, [QUERY])
    with pytest.raises(InputError, match=rf"{QUERY}: the checkpoint has no tensor"):
        source.weights.read(QUERY)


def test_an_untied_head_cannot_be_missing(untied: Path) -> None:
    edit(untied, **{HEAD: None})
    with pytest.raises(InputError, match=rf"{HEAD}: the checkpoint has no tensor"):
        account(load_source(untied), [HEAD])


def test_a_tensor_of_another_shape_is_named_with_both_shapes(untied: Path) -> None:
    edit(untied, **{QUERY: torch.ones(32, 16)})
    source = load_source(untied)
    with pytest.raises(InputError, match=rf"{QUERY}: .* shape \[32, 16\], the module \[32, 32\]"):
        account(source, parameters(source))
    with pytest.raises(InputError, match=r"shape \[32, 16\]"):
        source.weights.read_rows(QUERY, 0, 1)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_quantized_weight_is_named_with_its_dtype(untied: Path, dtype: torch.dtype) -> None:
    edit(untied, **{QUERY: torch.ones(32, 32).to(dtype)})
    source = load_source(untied)
    dtype_name = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=rf"{QUERY}: dtype {dtype_name} is not supported yet"):
        account(source, [QUERY])
    with pytest.raises(InputError, match=r"not supported yet"):
        source.weights.read(QUERY)


def test_a_buffer_that_the_module_computes_needs_no_tensor(untied: Path) -> None:
    source = load_source(untied)
    assert account(source, ["model.rotary_emb.inv_freq"])
    buffer = source.module.get_buffer("model.rotary_emb.inv_freq")
    assert torch.equal(source.weights.read("model.rotary_emb.inv_freq"), buffer)


def test_a_module_in_memory_is_accounted_for_too() -> None:
    source = load_source(build(llama(tie_word_embeddings=True)))
    found = rows(source, parameters(source))
    assert {row.status for row in found.values()} == {"used", "tied"}
    assert found[HEAD].status == "tied"
