"""Which weights a folder means: those of from_pretrained, or the only ones it can mean, or none without a word."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    LlamaForSequenceClassification,
    LlamaModel,
)

from autoconvert.errors import InputError
from autoconvert.source.source import load_source
from tests.source.tiny import build, llama

NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(llama()).save_pretrained(tmp_path)
    return tmp_path


def shard(folder: Path, change: float = 0.0, *, index: bool = True, keep: bool = False) -> list[Path]:
    """The weights, each with `change` added, in two shards as well or instead."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    parts = dict(zip(files, (names[::2], names[1::2]), strict=True))
    for file, part in parts.items():
        save_file({name: tensors[name] + change for name in part}, file)
    if index:
        weight_map = {name: file.name for file, part in parts.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    if not keep:
        (folder / "model.safetensors").unlink()
    return files


@pytest.mark.parametrize("with_shards", [True, False])
def test_a_single_file_is_read_as_from_pretrained_does_and_the_index_beside_it_is_told(
    with_shards: bool, folder: Path
) -> None:
    files = shard(folder, change=1.0, keep=True)
    if not with_shards:
        for file in files:
            file.unlink()
    source = load_source(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder).get_parameter(NORM)
    assert torch.equal(source.weights.read(NORM), theirs)
    assert any("model.safetensors.index.json beside it" in note for note in source.notes)


def test_a_whole_set_of_shards_needs_no_index(folder: Path) -> None:
    wanted = load_file(folder / "model.safetensors")[NORM]
    shard(folder, index=False)
    source = load_source(folder)
    assert torch.equal(source.weights.read(NORM), wanted)
    assert "no index lists the 2 shards" in source.notes[0]


def test_a_set_of_shards_without_an_index_that_is_not_whole_names_the_one_that_is_missing(folder: Path) -> None:
    shard(folder, index=False)[0].unlink()
    with pytest.raises(InputError, match="of the 2 shards model-…, number 1 is missing"):
        load_source(folder)


def test_shards_of_two_checkpoints_without_an_index_are_told_apart_by_nobody(folder: Path) -> None:
    for file in shard(folder, index=False):
        (folder / file.name.replace("model", "other")).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="shards of several checkpoints"):
        load_source(folder)


def test_a_tensor_in_two_shards_without_an_index_is_ambiguous(folder: Path) -> None:
    one, other = shard(folder, index=False)
    save_file({**load_file(other), NORM: torch.ones(32)}, other)
    save_file({**load_file(one), NORM: torch.zeros(32)}, one)
    with pytest.raises(InputError, match="and no index says which is meant"):
        load_source(folder)


def test_weights_under_another_name_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "merged.safetensors")
    with pytest.raises(InputError, match="no weights") as caught:
        load_source(folder)
    assert "merged.safetensors" in caught.value.hint


def rename(folder: Path, prefix: str) -> None:
    path = folder / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "anything."])
@pytest.mark.parametrize("tied", [True, False])
def test_a_prefix_that_all_names_have_is_left_out_and_told(prefix: str, tied: bool, tmp_path: Path) -> None:
    build(llama(tie_word_embeddings=tied)).save_pretrained(tmp_path)
    before = load_source(tmp_path)
    values = {name: before.weights.read(name) for name, _ in before.module.named_parameters()}
    rename(tmp_path, prefix)
    source = load_source(tmp_path)
    assert all(torch.equal(source.weights.read(name), value) for name, value in values.items())
    assert len(source.checkpoint) == len(before.checkpoint) and not source.unmatched
    assert any("which was left out" in note for note in source.notes)


def test_names_of_another_model_are_an_error_that_shows_them(folder: Path) -> None:
    save_file({"encoder.one": torch.ones(2), "decoder.two": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(
        InputError, match=r"none of the checkpoint's 2 tensors .* decoder\.two, the model's like model\."
    ):
        load_source(folder)


@pytest.mark.parametrize(
    ("kind", "tied"),
    [(LlamaForSequenceClassification, True), (LlamaForSequenceClassification, False), (LlamaModel, False)],
)
def test_a_checkpoint_without_a_language_model_head_is_none(kind: type[nn.Module], tied: bool, tmp_path: Path) -> None:
    # Where the head is tied to the embedding, only the configuration tells.
    kind(llama(tie_word_embeddings=tied, num_labels=3, pad_token_id=0)).save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match=f"of {kind.__name__}, which has no language-model head"):
        load_source(tmp_path)


def test_a_head_that_is_there_counts_whatever_the_configuration_says(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["LlamaModel"]}))
    assert load_source(folder).weights.read("lm_head.weight").shape == (97, 32)


def test_a_decoder_whose_embedding_is_only_under_the_encoders_name_is_an_error(tmp_path: Path) -> None:
    sizes = {
        f"{part}_{what}": 1 if what == "layers" else 4
        for part in ("encoder", "decoder")
        for what in ("layers", "attention_heads")
    }
    config = BartConfig(vocab_size=97, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0, **sizes)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the checkpoint has no tensor for it"):
        load_source(tmp_path).weights.read("lm_head.weight")


@pytest.mark.parametrize("missing", [(), ("model.safetensors",), ("model.safetensors", "config.json")])
def test_an_adapter_is_never_left_out_without_a_word(missing: tuple[str, ...], folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"adapter|missing") as caught:
        load_source(folder)
    assert "merge_and_unload" in caught.value.hint and "--adapter" not in caught.value.hint


def test_weights_that_a_configuration_names_are_not_passed_over(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transformers_weights": "other.safetensors"}))
    with pytest.raises(InputError, match=r"transformers_weights names 'other\.safetensors'"):
        load_source(folder)
