"""GGUF files against what transformers itself loads from them, and against the models that they were written of."""

import gc
import io
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from transformers import (
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    Lfm2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)

from autoconvert.errors import InputError
from autoconvert.source import gguf_file
from autoconvert.source.accounting import account, module_weights
from autoconvert.source.conversion import plan_conversion
from autoconvert.source.gguf_file import GgufCheckpoint
from autoconvert.source.gguf_header import read_header
from autoconvert.source.module_weights import ModuleWeights
from autoconvert.source.source import Origin, Source, load_source
from autoconvert.source.streamed import streamed
from autoconvert.source.tensors import checkpoint_of, contents, stored_tensors
from autoconvert.system.hashing import digest_of
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, CORPUS, byte_level_tokenizer

from .gguf_files import loaded, packed, write_gguf
from .tiny import SIZES, Recording, build, llama

IDS = torch.tensor([[5, 3, 96, 0, 5, 17]])
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
OF_HIDDEN = {name: size for name, size in SIZES.items() if name != "head_dim"}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": llama(),
    "llama-tied": llama(tie_word_embeddings=True),
    "qwen2": Qwen2Config(**OF_HIDDEN),
    "qwen3": Qwen3Config(**{**SIZES, "head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1}),
    "qwen2-moe": Qwen2MoeConfig(
        **{**OF_HIDDEN, "num_key_value_heads": 4},
        num_experts=4,
        num_experts_per_tok=2,
    ),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=8),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4),
    "lfm2": Lfm2Config(
        **OF_HIDDEN, block_auto_adjust_ff_dim=False, conv_L_cache=3, layer_types=["conv", "full_attention"]
    ),
}
WIDE = llama(hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64, vocab_size=40)
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q4_K", "Q6_K"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(build(llama()), tmp_path / "tiny.gguf")


def assert_weights(source: Source, module: PreTrainedModel) -> None:
    for name, parameter in module.named_parameters(remove_duplicate=False):
        whole = source.weights.read(name)
        assert torch.equal(whole, parameter), name
        assert source.weights.shape(name) == tuple(parameter.shape)
        count = parameter.shape[0]
        for start, stop in ((0, count), (1, count), (count // 3, count // 3 + 1), (2, 2)):
            assert torch.equal(source.weights.read_rows(name, start, stop), parameter[start:stop]), name


def assert_logits(source: Source, module: PreTrainedModel) -> None:
    with streamed(source) as ours, torch.no_grad():
        torch.testing.assert_close(
            ours(IDS % module.config.vocab_size, use_cache=False).logits,
            module(IDS % module.config.vocab_size, use_cache=False).logits,
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_equals_what_transformers_loads_and_the_model_s_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build(CONFIGS[name])
    path = write_gguf(module, tmp_path / "tiny.gguf")
    source, by_transformers = load_source(path), loaded(path, monkeypatch)
    assert_weights(source, by_transformers)
    assert_logits(source, by_transformers)
    assert_logits(source, module)
    assert not source.unmatched


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_type_equal_what_transformers_loads(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(build(WIDE), tmp_path / "wide.gguf", GGMLQuantizationType[kind])
    source, by_transformers = load_source(path), loaded(path, monkeypatch)
    assert_weights(source, by_transformers)
    assert_logits(source, by_transformers)
    counted = "12 tensors of F32" if kind == "F32" else f"9 tensors of {kind}, 3 of F32"
    assert source.notes[0] == f"GGUF: wide.gguf has {counted}"


def test_rows_decode_these_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(build(WIDE), tmp_path / "wide.gguf", GGMLQuantizationType.Q8_0)
    source = load_source(path)
    whole = source.weights.read("model.layers.0.self_attn.q_proj.weight")
    decoded: list[int] = []

    def counting(stored: object, kind: GGMLQuantizationType) -> object:
        numbers = dequantize(stored, kind)  # type: ignore[arg-type]
        decoded.append(numbers.size)
        return numbers

    monkeypatch.setattr(gguf_file, "dequantize", counting)
    source.weights.read_rows("model.embed_tokens.weight", 7, 9)
    assert decoded == [2 * 256]
    decoded.clear()
    rows = source.weights.read_rows("model.layers.0.self_attn.q_proj.weight", 64, 128)
    assert torch.equal(rows, whole[64:128]) and decoded == [64 * 256]


def test_one_expert_decodes_its_own_rows(tmp_path: Path) -> None:
    path = write_gguf(build(CONFIGS["qwen2-moe"]), tmp_path / "experts.gguf")
    source = load_source(path)
    weights = module_weights(source)
    recorded = Recording(weights.checkpoint)
    own = ModuleWeights(source.module, recorded, weights._derivations)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert torch.equal(own.read_rows(name, 2, 3), source.weights.read(name)[2:3])
    assert recorded.read_names == ["blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight"]
    assert recorded.sizes == [1408 * 32, 1408 * 32]


def test_large_tensors_are_decoded_a_tile_at_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = GgufCheckpoint([file])
    whole = {name: before.read(name) for name in before.names()}
    monkeypatch.setattr(gguf_file, "_TILE", 100)
    for name, tensor in whole.items():
        assert torch.equal(GgufCheckpoint([file]).read(name), tensor)


def test_what_is_stored_is_told_by_its_own_type_and_bytes(tmp_path: Path) -> None:
    module = build(WIDE)
    source = load_source(write_gguf(module, tmp_path / "wide.gguf", GGMLQuantizationType.Q4_0))
    name = "blk.0.ffn_up.weight"
    bits = packed(module.model.layers[0].mlp.up_proj.weight.detach().numpy(), GGMLQuantizationType.Q4_0)
    assert source.checkpoint[name] == bits.nbytes
    assert b"".join(map(bytes, checkpoint_of(source).pieces(name))) == bits.tobytes()
    digests = {each: digest_of(pieces) for each, pieces in contents(source).items()}
    stored = stored_tensors(checkpoint_of(source), [name, "output_norm.weight"], digests)
    assert stored[name].dtype == "Q4_0" and stored[name].shape == (256, 256)
    assert stored["output_norm.weight"].dtype == "float32"
    rows = account(source, [each for each, _ in source.module.named_parameters()])
    assert {row.status for row in rows} == {"used"} and rows[0].nbytes == source.checkpoint[rows[0].name]


def test_a_file_and_a_folder_with_nothing_else_are_the_same_model(file: Path) -> None:
    of_file, of_folder = load_source(file), load_source(file.parent)
    assert of_file.name == "tiny" and of_file.origin == Origin("file", "tiny.gguf")
    assert of_folder.name == file.parent.name and of_folder.origin == Origin("folder", file.parent.name)
    assert set(of_file.files) == set(of_folder.files) == {file}
    assert of_file.checkpoint == of_folder.checkpoint


def test_what_is_derived_lasts_as_long_as_the_source(file: Path) -> None:
    source = load_source(file)
    folder = source.folder
    assert folder is not None and (folder / "config.json").is_file()
    del source
    gc.collect()
    assert not folder.exists()


def test_parts_are_one_model(tmp_path: Path) -> None:
    module = build(llama())
    first = write_gguf(module, tmp_path / "tiny.gguf", tensors_a_part=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3 and first.name == "tiny-00001-of-00003.gguf"
    for model in (parts[1], tmp_path):
        source = load_source(model)
        assert_weights(source, module)
        assert set(source.files) == set(parts)
    assert load_source(first).name == "tiny"
    parts[1].rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"tiny-00002-of-00003\.gguf: missing, one of 3 parts"):
        load_source(first)
    first.rename(tmp_path / "alone.gguf")
    with pytest.raises(InputError, match=r"alone\.gguf: one of 3 parts of a model, without the number"):
        load_source(tmp_path / "alone.gguf")


def test_several_models_in_a_folder_are_not_chosen_from(file: Path) -> None:
    shutil.copyfile(file, file.with_name("other.gguf"))
    with pytest.raises(InputError, match=r"2 GGUF models, other\.gguf, tiny\.gguf"):
        load_source(file.parent)


def test_scaled_frequencies_are_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers leaves the scaling of Llama 3 out; with the original config.json it is there twice."""
    module = build(llama(rope_parameters=LLAMA3))
    path = write_gguf(module, tmp_path / "tiny.gguf")
    source = load_source(path)
    assert source.unmatched.keys() == {"rope_freqs.weight"}
    assert_logits(source, module)
    frequencies = loaded(path, monkeypatch).get_buffer("model.rotary_emb.inv_freq")
    assert not torch.allclose(source.module.get_buffer("model.rotary_emb.inv_freq"), frequencies, rtol=0.1)
    module.config.save_pretrained(tmp_path)
    assert_logits(load_source(path), module)
    llama(rope_parameters={**LLAMA3, "factor": 4.0}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="gives other rotary frequencies than the configuration"):
        load_source(path)


def test_a_configuration_beside_the_file_comes_first(tmp_path: Path) -> None:
    config = Qwen3Config(**SIZES)
    module = build(config)
    path = write_gguf(module, tmp_path / "tiny.gguf")
    with pytest.raises(InputError, match=r"qwen3\.attention\.key_length is 8, and the configuration says 128") as error:
        load_source(path)
    assert "config.json of the original model beside" in error.value.hint
    config.save_pretrained(tmp_path)
    source = load_source(path)
    assert_logits(source, module)
    assert any("config.json" in note for note in source.notes)
    Qwen3Config(**SIZES, rms_norm_eps=1e-3).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"layer_norm_rms_epsilon is .*, and the configuration says 0\.001"):
        load_source(path)


def test_a_setting_that_transformers_passes_over_is_not_lost_in_silence(tmp_path: Path) -> None:
    module = build(llama())
    path = write_gguf(module, tmp_path / "tiny.gguf", settings=lambda writer: writer.add_logit_scale(0.5))
    with pytest.raises(InputError, match=r"llama\.logit_scale is 0\.5, and the configuration says nothing of it"):
        load_source(path)
    path = write_gguf(module, path, settings=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR))
    with pytest.raises(InputError, match=r"llama\.rope\.scaling\.type is linear"):
        load_source(path)
    path = write_gguf(module, path, settings=lambda writer: writer.add_float32("llama.attention.novelty", 2.0))
    with pytest.raises(InputError, match=r"llama\.attention\.novelty is 2\.0"):
        load_source(path)
    module.config.save_pretrained(tmp_path)
    assert_weights(load_source(path), module)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    extra = {"blk.0.attn_novelty.weight": np.zeros((4, 4), np.float32)}
    path = write_gguf(build(llama()), tmp_path / "tiny.gguf", tensors=extra)
    with pytest.raises(InputError, match=r"tiny\.gguf: tensor blk\.0\.attn_novelty\.weight has no place in Llama"):
        load_source(path)


def test_a_missing_tensor_is_noticed_where_it_is_needed(tmp_path: Path) -> None:
    path = write_gguf(build(llama()), tmp_path / "tiny.gguf", leave_out="blk.1.ffn_up.weight")
    source = load_source(path)
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: the checkpoint has no tensor"):
        account(source, [name for name, _ in source.module.named_parameters()])


def test_more_layers_than_tensors_are_not_built(file: Path) -> None:
    name = b"llama.block_count" + (4).to_bytes(4, "little")
    content = file.read_bytes()
    assert content.count(name + (2).to_bytes(4, "little")) == 1
    file.write_bytes(content.replace(name + (2).to_bytes(4, "little"), name + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"1073741824 layers, and only 21 tensors"):
        load_source(file)


def test_an_architecture_that_transformers_does_not_know(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"llama", b"lemma"))
    with pytest.raises(InputError, match=r"tiny\.gguf: transformers .* cannot read its architecture 'lemma'") as error:
        load_source(file)
    assert "update transformers" in error.value.hint


def test_a_file_that_is_cut_short_or_something_else(file: Path) -> None:
    whole = file.read_bytes()
    data = min(entry.begin for entry in read_header(file).tensors.values())
    for length in (0, 3, 20, data // 2, data - 40):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"tiny\.gguf: (not a|it ends within its header)"):
            load_source(file)
    file.write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"tiny\.gguf: tensor .* ends at byte \d+, the file at byte \d+: it is trunc"):
        load_source(file)
    file.write_bytes(b"PK\3\4" + whole)
    with pytest.raises(InputError, match="not a GGUF file: it begins with"):
        load_source(file)
    file.write_bytes(whole[:4] + (1).to_bytes(4, "little") + whole[8:])
    with pytest.raises(InputError, match="a GGUF file of version 1, not supported"):
        load_source(file)


def test_a_type_that_gguf_cannot_decode(tmp_path: Path) -> None:
    counts = {"blk.0.counts": np.arange(8, dtype=np.int32)}
    path = write_gguf(build(llama()), tmp_path / "tiny.gguf", tensors=counts)
    with pytest.raises(InputError, match=r"tensor blk\.0\.counts is stored as I32, which gguf cannot decode"):
        load_source(path)


def test_a_file_that_changes_is_noticed(file: Path) -> None:
    source = load_source(file)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(InputError, match="it changed while it was converted"):
        source.weights.read("model.norm.weight")


def test_a_file_has_no_revisions(file: Path) -> None:
    with pytest.raises(InputError, match="a file has no revisions"):
        load_source(file, revision="main")


def test_without_the_package_it_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconvert.source.gguf_folder.find_spec", lambda name: None)
    with pytest.raises(InputError, match="is not installed") as error:
        load_source(file)
    assert error.value.hint == "pip install gguf"


def test_the_tokenizer_is_the_files(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)
    module = build(llama(vocab_size=len(tokenizer)))
    path = write_gguf(module, tmp_path / "tiny.gguf", tokenizer=tokenizer)
    source = load_source(path)
    folder = source.folder
    assert folder is not None and source.why_no_tokenizer == ""
    derived = AutoTokenizer.from_pretrained(folder)
    by_transformers = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    text = "The cat sat on a <|end|> mat, für 12 Boxkämpfer."
    assert derived.encode(text) == by_transformers.encode(text) == tokenizer.encode(text)
    assert derived.chat_template == CHAT_TEMPLATE
    assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": [tokenizer.eos_token_id]}


def test_a_sentencepiece_vocabulary_reads_as_its_own_library_does(tmp_path: Path) -> None:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=trained,
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        character_coverage=1.0,
        # As Llama's: no text is changed before it is read.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())

    def write_vocabulary(writer: gguf.GGUFWriter) -> None:
        ids = range(model.vocab_size())
        kinds = [(model.is_unknown, 2), (model.is_control, 3), (model.is_byte, 6)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list([model.id_to_piece(index) for index in ids])
        writer.add_token_scores([model.get_score(index) for index in ids])
        writer.add_token_types([next((kind for known, kind in kinds if known(index)), 1) for index in ids])
        writer.add_bos_token_id(model.bos_id())
        writer.add_eos_token_id(model.eos_id())

    module = build(llama(vocab_size=model.vocab_size()))
    source = load_source(write_gguf(module, tmp_path / "tiny.gguf", settings=write_vocabulary))
    assert source.folder is not None and source.why_no_tokenizer == ""
    derived = AutoTokenizer.from_pretrained(source.folder)
    for text in (*CORPUS, "two  spaces", "日本"):
        assert derived.encode(text) == [model.bos_id(), *model.encode(text)], text


def test_a_tokenizer_beside_the_file_comes_first(tmp_path: Path) -> None:
    own = byte_level_tokenizer(prepends_start=False, chat_template="{{ messages[0].content }}")
    path = write_gguf(
        build(llama(vocab_size=len(own))), tmp_path / "tiny.gguf", tokenizer=byte_level_tokenizer(prepends_start=True)
    )
    own.save_pretrained(tmp_path)
    source = load_source(path)
    assert source.folder is not None
    assert AutoTokenizer.from_pretrained(source.folder).chat_template == own.chat_template
    assert any("the tokenizer's" in note for note in source.notes)


def test_a_mapping_of_one_s_own_takes_the_place_of_the_class_s(file: Path) -> None:
    source = load_source(file)
    assert plan_conversion(source.module, GgufCheckpoint([file]), []).derivations == {}
