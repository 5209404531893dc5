"""A file beside its model, whoever made it: a good one passes, a wrong one fails in the layer that is wrong."""

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import autoconvert
from autoconvert.check.stored import Constants
from autoconvert.check.verdict import CONTRACT, LAYERS, NUMBER_LAYERS, RECEIPT, TEXT_LAYERS, Verdict
from autoconvert.driver.compile import Stages
from autoconvert.errors import InputError
from autoconvert.lowering import cpu
from autoconvert.packaging.litertlm import read_sections
from autoconvert.packaging.tokenizer import TokenizerSpec
from tests.foreign_bytes import bounded
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, byte_level_tokenizer, tiny_llama

PREFILL = (4, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def converted(
    model: Path, output: Path, quantize: str = "none", context: int | None = None, stages: Stages | None = None
) -> dict[str, Path]:
    """The files of `model`, whatever is wrong with them."""
    return autoconvert.convert(
        model,
        output,
        quantize=quantize,
        context=context,
        prefill=PREFILL,
        formats=("litertlm", "tflite") if (model / "tokenizer.json").exists() else ("tflite",),
        verify="off",
        stages=stages,
    ).files


@pytest.fixture(scope="module")
def files(model: Path) -> dict[str, Path]:
    return converted(model, model.parent / "none")


def outcomes(verdicts: Collection[Verdict], outcome: str) -> set[str]:
    return {verdict.layer for verdict in verdicts if verdict.outcome == outcome}


def failed(file: Path, model: Path) -> set[str]:
    verdicts = autoconvert.check_file(file, model)
    assert [verdict.layer for verdict in verdicts] == list(LAYERS)
    return outcomes(verdicts, "failed")


def test_a_good_bundle_passes_in_every_layer_and_leaves_nothing_behind(
    files: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verdicts = autoconvert.check_file(files["litertlm"], model)
    assert outcomes(verdicts, "passed") == set(LAYERS), verdicts
    assert "prompts of" in verdicts[0].detail and "3 chats of up to 3 turns" in verdicts[2].detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_good_tflite_passes_in_every_layer_that_it_has(quantize: str, model: Path, tmp_path: Path) -> None:
    verdicts = autoconvert.check_file(converted(model, tmp_path, quantize)["tflite"], model, verify="full")
    assert outcomes(verdicts, "not checked") == {*TEXT_LAYERS, RECEIPT}
    assert outcomes(verdicts, "failed") == set(), verdicts
    assert ("int8 changes" if quantize == "int8" else "no constant is rounded") in verdicts[-2].detail


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_the_weights_of_another_model_are_found_where_they_are_run(quantize: str, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    torch.manual_seed(1)
    changed = tiny_llama(len(byte_level_tokenizer(prepends_start=True)))
    torch.nn.init.normal_(changed.model.layers[1].mlp.up_proj.weight, std=0.5)
    changed.save_pretrained(other)
    found = failed(converted(other, tmp_path / "out", quantize)["litertlm"], model)
    numbers = set(NUMBER_LAYERS) if quantize == "int8" else set(NUMBER_LAYERS) - {"quantisation"}
    assert found == {*numbers, RECEIPT}


def test_a_wrong_window_is_found_in_a_text_that_is_longer_than_it(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=96,
        sliding_window=40,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "model")
    other = shutil.copytree(tmp_path / "model", tmp_path / "other")
    said = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**said, "sliding_window": 56}))
    assert failed(converted(other, tmp_path / "out")["tflite"], tmp_path / "model") == {"window"}


def _template(tokenizer: TokenizerSpec) -> TokenizerSpec:
    assert tokenizer.chat is not None and tokenizer.chat.jinja is not None
    return replace(tokenizer, chat=replace(tokenizer.chat, jinja=tokenizer.chat.jinja.replace("<|end|>", "<|end|> ")))


def _tokens(tokenizer: TokenizerSpec) -> TokenizerSpec:
    content = tokenizer.section.content.replace(b'"add_prefix_space": false', b'"add_prefix_space": true')
    assert content != tokenizer.section.content
    return replace(tokenizer, section=replace(tokenizer.section, content=content))


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        (_template, {"template"}),
        (lambda tokenizer: replace(tokenizer, stops=(3,)), {"start and stop tokens"}),
        (_tokens, {"tokenizer"}),
    ],
    ids=["template", "stop tokens", "tokenizer"],
)
def test_what_a_bundle_says_of_text_fails_in_its_layer(
    change: Callable[[TokenizerSpec], TokenizerSpec], layers: set[str], model: Path, tmp_path: Path
) -> None:
    stages = Stages(before_bundle=change)
    assert failed(converted(model, tmp_path, stages=stages)["litertlm"], model) == layers


def test_a_prime_context_fails_in_the_contract_before_the_runtime_dies_of_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as blind:
        blind.setattr(cpu, "_is_prime", lambda number: False)
        file = converted(model, tmp_path, context=89)["litertlm"]
    verdicts = autoconvert.check_file(file, model)
    assert outcomes(verdicts, "failed") == {"contract"}, verdicts
    assert "89 positions, a prime number" in verdicts[0].detail
    assert outcomes(verdicts, "not checked") == set(NUMBER_LAYERS)


@pytest.mark.parametrize("kind", ["litertlm", "tflite"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_truncated_file_fails_in_the_contract(
    kind: str, part: float, files: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    content = files[kind].read_bytes()
    file = tmp_path / files[kind].name
    file.write_bytes(content[: int(part * len(content))])
    verdicts = autoconvert.check_file(file, model)
    assert outcomes(verdicts, "failed") == {"contract"}, verdicts
    assert outcomes(verdicts, "not checked") == {*TEXT_LAYERS, *NUMBER_LAYERS, RECEIPT}


def test_a_name_that_is_no_text_fails_in_the_contract(files: dict[str, Path], model: Path, tmp_path: Path) -> None:
    content = files["tflite"].read_bytes()
    assert b"kv_cache_k_1\0" in content
    file = tmp_path / "model.tflite"
    file.write_bytes(content.replace(b"kv_cache_k_1\0", b"kv_cache\xff\xff_1\0"))
    assert failed(file, model) == {"contract"}


@settings(bounded, max_examples=25)
@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_bytes_a_flatbuffer_has_each_layer_gets_a_verdict(
    changes: list[tuple[float, int]], files: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    content = bytearray(files["tflite"].read_bytes())
    end = min(stored.offset for stored in Constants(files["tflite"]).tensors.values())
    for place, value in changes:
        content[8 + int(place * (end - 8))] = value
    file = tmp_path / "model.tflite"
    file.write_bytes(content)
    assert [verdict.layer for verdict in autoconvert.check_file(file, model)] == list(LAYERS)


def test_a_tensor_that_the_memory_cannot_hold_is_not_run(
    files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote a wrong shape into a file must not get all the memory for it."""
    held = SimpleNamespace(available=1000)
    monkeypatch.setattr("autoconvert.driver.check_file.psutil", SimpleNamespace(virtual_memory=lambda: held))
    verdicts = autoconvert.check_file(files["tflite"], model)
    assert outcomes(verdicts, "not checked") == set(LAYERS)
    assert "needs 24.6 kB of memory for a tensor, has 1.0 kB" in verdicts[0].detail


@pytest.mark.parametrize("times", [0.5, 1.5])
def test_what_the_disk_has_no_room_to_run_is_not_checked(
    times: float, files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime dies of a full disk, which says nothing of the file. A copy and what is packed are twice its size."""
    (decoder,) = (section for section in read_sections(files["litertlm"]) if "decode" in section.model.lower())
    room = SimpleNamespace(free=int(times * decoder.size))
    monkeypatch.setattr("autoconvert.driver.needs.shutil.disk_usage", lambda place: room)
    verdicts = autoconvert.check_file(files["litertlm"], model)
    without_text = {CONTRACT, *NUMBER_LAYERS}
    assert outcomes(verdicts, "not checked") == ({*without_text, *TEXT_LAYERS} if times < 1 else without_text)
    assert not outcomes(verdicts, "failed")
    assert "of disk for temporary files" in verdicts[0].detail


def test_a_text_is_a_file_that_fails_in_the_contract(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_text("none")
    assert failed(file, model) == {"contract"}


def test_another_vocabulary_fails_in_the_contract(files: dict[str, Path], tmp_path: Path) -> None:
    tiny_llama(64).save_pretrained(tmp_path)
    verdicts = autoconvert.check_file(files["tflite"], tmp_path)
    assert "the model 64" in verdicts[0].detail
    assert outcomes(verdicts, "failed") == {"contract"}


def test_what_is_no_file_and_what_is_not_supported_yet_is_bad_input(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.task").write_bytes(b"PK\3\4")
    for path, said in ((tmp_path, "a folder"), (tmp_path / "absent", "no such file"), (tmp_path / "model.task", "yet")):
        with pytest.raises(InputError, match=said):
            autoconvert.check_file(path, model)
