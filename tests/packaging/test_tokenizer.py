import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import PreTrainedTokenizerFast

from autoconvert.errors import InputError
from autoconvert.packaging import tokenizer as lowered
from autoconvert.packaging import tokenizer_section as sections
from autoconvert.runtime.engine import open_engine
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, CORPUS, bundle, byte_level_tokenizer


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast, **generation: object) -> Path:
    tokenizer.save_pretrained(folder)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def sentencepiece_model(folder: Path) -> Path:
    text = folder / "corpus.txt"
    text.write_text("\n".join(CORPUS))
    SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        minloglevel=2,
    )
    text.unlink()
    return folder / "tokenizer.model"


@pytest.mark.parametrize("prepends", [True, False])
def test_start_token_is_what_encoding_puts_first_not_what_is_declared(tmp_path: Path, prepends: bool) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=prepends)
    spec = lowered.read_tokenizer(saved(tmp_path, tokenizer))
    assert tokenizer.bos_token_id == 0
    assert spec.start == (0 if prepends else None)


@pytest.mark.parametrize(("eos", "stops"), [(1, (1,)), ([6, 5], (6, 5, 1)), (None, (1,))])
def test_stop_tokens_join_generation_config_and_tokenizer(tmp_path: Path, eos: object, stops: tuple[int, ...]) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=False), eos_token_id=eos)
    assert lowered.read_tokenizer(folder).stops == stops


def test_end_of_turn_of_the_chat_template_is_a_stop_token(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=False, chat_template=CHAT_TEMPLATE)
    spec = lowered.read_tokenizer(saved(tmp_path, tokenizer))
    assert spec.stops == (1, tokenizer.convert_tokens_to_ids("<|end|>"))


def test_tokenizer_json_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=True))
    section = lowered.read_tokenizer(folder).section
    assert section.kind == "huggingface"
    assert section.content == (folder / "tokenizer.json").read_bytes()


def test_sentencepiece_is_taken_where_it_is_exact_and_the_runtime_reads_it(tmp_path: Path) -> None:
    file = sentencepiece_model(tmp_path)
    processor = SentencePieceProcessor(model_file=str(file))

    wanted = [sections.Reading(text, tuple(processor.encode(text))) for text in (*CORPUS, "a</s>b")]
    section = sections.choose_section(tmp_path, SimpleNamespace(added_tokens_decoder={}), wanted)
    assert (section.kind, section.content) == ("sentencepiece", file.read_bytes())
    spec = lowered.TokenizerSpec(section, None, (2,), None, None)
    with open_engine(bundle(tmp_path / "model.litertlm", spec)) as engine:
        assert engine.tokenize(CORPUS[0]) == processor.encode(CORPUS[0])


def test_sentencepiece_that_lacks_what_the_tokenizer_adds_is_not_taken(tmp_path: Path) -> None:
    sentencepiece_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = lowered.load_tokenizer(tmp_path)
    section = sections.choose_section(tmp_path, tokenizer, sections.readings(tokenizer, None))
    assert section.kind == "huggingface"
    text = "a</s>b"
    ids = section.encoder()(text)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.eos_token_id in ids


def test_a_tokenizer_that_differs_from_its_file_is_written_anew(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=False)
    folder = saved(tmp_path, tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    section = sections.choose_section(folder, tokenizer, sections.readings(tokenizer, None))
    assert section.content != (folder / "tokenizer.json").read_bytes()
    ids = section.encoder()("a<|new|>")
    assert ids == tokenizer.encode("a<|new|>", add_special_tokens=False)
    assert len(ids) == 2


def test_a_folder_without_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither tokenizer\.json nor tokenizer\.model") as caught:
        lowered.read_tokenizer(tmp_path)
    assert "--format tflite" in caught.value.hint


def test_a_corrupt_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be loaded"):
        lowered.read_tokenizer(tmp_path)
