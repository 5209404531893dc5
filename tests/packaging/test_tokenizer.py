import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from autoconvert.errors import AutoconvertError, InputError, MachineError, Refused
from autoconvert.packaging import tokenizer as lowered
from autoconvert.packaging import tokenizer_section as sections
from autoconvert.runtime.engine import open_engine
from autoconvert.runtime.stub import STUB, read_in_stub
from tests.packaging.tiny_bundle import CHAT_TEMPLATE, CORPUS, bundle, byte_level_tokenizer


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast, **generation: object) -> Path:
    tokenizer.save_pretrained(folder)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def sentencepiece_model(folder: Path, **options: Any) -> Path:
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
        **options,
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


def test_a_tokenizer_that_was_saved_cutting_and_filling_texts_does_neither(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=True)
    folder = saved(tmp_path, tokenizer)
    change(
        folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 7},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 2,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    )
    spec = lowered.read_tokenizer(folder)
    assert spec.section.content != (folder / "tokenizer.json").read_bytes()
    texts = ["a", "The cat sat on the mat and looked at the moon."]
    assert read_in_stub(spec.section, texts) == [tokenizer.encode(text, add_special_tokens=False) for text in texts]


@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_that_only_the_configuration_names_are_in_the_bundle(tmp_path: Path, special: bool) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=False))
    size = len(byte_level_tokenizer(prepends_start=False))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}
    change(folder / "tokenizer_config.json", added_tokens_decoder={str(size): {"content": "LORD God", **flags}})
    spec = lowered.read_tokenizer(folder, trial=STUB)
    assert size in read_in_stub(spec.section, ["the LORD God said"])[0]


def test_added_tokens_that_only_a_file_of_their_own_names_are_in_the_bundle(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=False))
    size = len(byte_level_tokenizer(prepends_start=False))
    (folder / "added_tokens.json").write_text(json.dumps({"LORD God": size}))
    spec = lowered.read_tokenizer(folder, trial=STUB)
    assert size in read_in_stub(spec.section, ["the LORD God said"])[0]


def test_a_tokenizer_that_loads_only_in_part_keeps_its_template_and_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE))
    # No library reads such a configuration.
    change(folder / "tokenizer_config.json", added_tokens_decoder={"0": "<s>"})
    spec = lowered.read_tokenizer(folder)
    assert spec.chat is not None
    assert spec.stops == (1, 6)
    assert any("was read from tokenizer.json, special tokens and chat template alone" in note for note in spec.notes)


def test_a_template_that_only_a_processor_has_is_not_lost_without_a_word(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=True))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    spec = lowered.read_tokenizer(folder)
    assert spec.chat is None
    assert any("chat_template.json belongs to a processor" in note for note in spec.notes)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json", "generation_config.json"])
def test_a_corrupt_file_beside_a_tokenizer_is_an_input_error_that_names_it(tmp_path: Path, file: str) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=True))
    (folder / file).write_text('{"chat_template": "')
    with pytest.raises(InputError, match=file):
        lowered.read_tokenizer(folder)


def with_two_more(folder: Path, template: str | None = None) -> int:
    """Saves a tokenizer with two added tokens behind its vocabulary, whose size is given back."""
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=template)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<more>", "<most>"]})
    saved(folder, tokenizer)
    return size


def test_added_tokens_without_a_row_are_left_out_so_that_no_text_reads_as_them(tmp_path: Path) -> None:
    rows = with_two_more(tmp_path, CHAT_TEMPLATE)
    spec = lowered.read_tokenizer(tmp_path, rows=rows, trial=STUB)
    (ids,) = read_in_stub(spec.section, ["a<more>b<most>"])
    assert max(ids) < rows
    assert any(f"2 added tokens from {rows} ('<more>') on left out" in note for note in spec.notes)
    assert lowered.read_tokenizer(tmp_path, rows=rows + 2).notes == lowered.read_tokenizer(tmp_path).notes


def test_a_template_that_writes_a_token_without_a_row_is_refused(tmp_path: Path) -> None:
    rows = with_two_more(tmp_path, CHAT_TEMPLATE.replace("<|end|>", "<most>"))
    with pytest.raises(Refused, match=f"writes '<most>', token {rows + 1}.* has {rows} rows"):
        lowered.read_tokenizer(tmp_path, rows=rows)


def test_a_vocabulary_beyond_the_rows_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, byte_level_tokenizer(prepends_start=True))
    with pytest.raises(Refused, match=r"tokens from 300 .* of 300 rows"):
        lowered.read_tokenizer(tmp_path, rows=300)


@pytest.mark.parametrize(
    ("eos", "stops"), [(6.0, (6, 1)), (-1, (1,)), ([6, 5000], (6, 1)), ([], (1,)), ([5.0, 6], (5, 6, 1))]
)
def test_stop_tokens_are_those_that_the_model_can_say(tmp_path: Path, eos: object, stops: tuple[int, ...]) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=False), eos_token_id=eos)
    spec = lowered.read_tokenizer(folder, rows=400)
    assert spec.stops == stops
    assert any("left out: the model has no such token" in note for note in spec.notes) == (eos in (-1, [6, 5000]))


@pytest.mark.parametrize("eos", ["</s>", "2", [[1, 2]], True, 1.5, {"a": 1}])
def test_stop_tokens_that_are_none_are_an_input_error(tmp_path: Path, eos: object) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=False), eos_token_id=eos)
    with pytest.raises(InputError, match="neither a token id nor a list"):
        lowered.read_tokenizer(folder)


def test_a_token_behind_each_text_is_said_and_not_read(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    spec = lowered.read_tokenizer(saved(tmp_path, tokenizer), trial=STUB)
    assert spec.start == 0
    assert spec.encoder()("a") == tokenizer.encode("a")[:-1]
    assert any("ends a text with [1]" in note for note in spec.notes)


@pytest.mark.parametrize("alphabet", ["abcdefghijklmnopqrstuvwxyz .", "01+", "ab", "αβγδ\n"])
def test_texts_to_run_a_model_on_are_made_of_a_small_alphabet(tmp_path: Path, alphabet: str) -> None:
    core = Tokenizer(models.WordLevel({c: i for i, c in enumerate(["<unk>", "</s>", *alphabet])}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("(?m:.)"), "isolated")
    core.decoder = decoders.Fuse()
    saved(tmp_path, PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>"))
    spec = lowered.read_tokenizer(tmp_path, rows=len(alphabet) + 2, trial=STUB)
    assert spec.start is None
    encode = spec.encoder()
    ids = encode(spec.texts.passage)
    assert ids.count(0) * 4 <= len(ids)
    assert len(set(ids)) >= min(8, len(alphabet))
    assert 0 < len(encode(spec.texts.target)) <= 5
    texts = [spec.texts.passage, f"{alphabet}\n{alphabet}"]
    assert read_in_stub(spec.section, texts) == [encode(text) for text in texts]


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model"])
def test_a_sentencepiece_model_by_another_name_is_found(tmp_path: Path, name: str) -> None:
    file = sentencepiece_model(tmp_path)
    file.rename(tmp_path / name)
    (tmp_path / "vocab_notes.vocab").touch()
    wanted = [sections.Reading(text, tuple(read_pieces(tmp_path / name, text))) for text in CORPUS]
    section = sections.choose_section(tmp_path, SimpleNamespace(added_tokens_decoder={}), wanted, None, read_in_stub)
    assert section.kind == "sentencepiece"


def read_pieces(file: Path, text: str) -> list[int]:
    ids: list[int] = SentencePieceProcessor(model_file=str(file)).encode(text)
    return ids


OWN_CODE = """
from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer

class Own(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tokenizer.model"}

    def __init__(self, vocab_file, **options):
        self.pieces = SentencePieceProcessor(vocab_file)
        super().__init__(**options)

    @property
    def vocab_size(self):
        return self.pieces.get_piece_size()

    def get_vocab(self):
        return {self.pieces.id_to_piece(i): i for i in range(self.vocab_size)}

    def _tokenize(self, text):
        return self.pieces.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.pieces.piece_to_id(token)

    def _convert_id_to_token(self, token):
        return self.pieces.id_to_piece(token)

    def convert_tokens_to_string(self, tokens):
        return self.pieces.decode(tokens)

    def build_inputs_with_special_tokens(self, first, second=None):
        return [1] + first
"""


def test_a_tokenizer_of_its_own_code_is_read_where_that_is_trusted(tmp_path: Path) -> None:
    sentencepiece_model(tmp_path, normalization_rule_name="identity", remove_extra_whitespaces=False)
    (tmp_path / "own.py").write_text(OWN_CODE)
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<s>", "unk_token": "<unk>"}))
    with pytest.raises(InputError, match="needs Python code of its own") as caught:
        lowered.read_tokenizer(tmp_path)
    assert "--trust-remote-code" in caught.value.hint
    spec = lowered.read_tokenizer(tmp_path, trust_remote_code=True, trial=STUB)
    tokenizer = lowered.load_tokenizer(tmp_path, trust_remote_code=True)
    assert spec.start == 1
    text = "The  cat </s> sat"
    assert read_in_stub(spec.section, [text]) == [tokenizer.encode(text, add_special_tokens=False)]


def test_a_tokenizer_that_knows_no_text_is_an_input_error(tmp_path: Path) -> None:
    core = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    saved(tmp_path, PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>"))
    with pytest.raises(InputError, match="knows no text: 2 tokens"):
        lowered.read_tokenizer(tmp_path)


def test_a_form_that_the_runtime_reads_otherwise_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=True))
    tokenizer = lowered.load_tokenizer(folder)
    read = sections.readings(tokenizer, None)
    with pytest.raises(Refused, match="the runtime reads it in another way"):
        sections.choose_section(folder, tokenizer, read, None, lambda section, texts: [[] for _ in texts])


def test_a_machine_without_a_temporary_folder_is_not_taken_for_a_tokenizer_without_a_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=True))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(MachineError, match="a temporary folder"):
        lowered.read_tokenizer(folder, trial=STUB)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
NAMES = (
    *("tokenizer_class", "added_tokens_decoder", "bos_token", "eos_token", "unk_token", "chat_template", "auto_map"),
    *(
        "additional_special_tokens",
        "extra_special_tokens",
        "add_bos_token",
        "model_max_length",
        "padding_side",
        "backend",
    ),
)


def readable(folder: Path) -> None:
    """Reads the tokenizer of `folder`: it is one, or an error of ours says why not."""
    with contextlib.suppress(AutoconvertError):
        spec = lowered.read_tokenizer(folder, rows=400)
        assert spec.section.encoder()("The cat") is not None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4), generation=VALUES)
def test_any_configuration_of_a_tokenizer_is_read_or_one_of_our_errors(
    tmp_path: Path, config: dict[str, object], generation: object
) -> None:
    folder = saved(tmp_path, byte_level(), eos_token_id=generation)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    readable(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]),
    at=st.floats(0, 1),
    put=st.binary(max_size=8),
    length=st.integers(0, 40),
)
def test_any_bytes_of_a_tokenizers_files_are_read_or_one_of_our_errors(
    tmp_path: Path, name: str, at: float, put: bytes, length: int
) -> None:
    folder = saved(tmp_path, byte_level(), eos_token_id=1)
    content = (folder / name).read_bytes()
    place = int(at * len(content))
    (folder / name).write_bytes(content[:place] + put + content[place + length :])
    readable(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_sentencepiece_model_are_read_or_one_of_our_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer.model").write_bytes(content)
    readable(tmp_path)


@cache
def byte_level() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer(prepends_start=True, chat_template=CHAT_TEMPLATE)


def change(file: Path, **changes: object) -> None:
    """Sets parts of a JSON object in a file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_tokenizer_of_many_tokens_is_parsed_once_until_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, byte_level_tokenizer(prepends_start=False))
    parsed: list[str] = []

    class Counted:
        @staticmethod
        def from_str(text: str) -> Tokenizer:
            parsed.append(text)
            return Tokenizer.from_str(text)

    sections.forget_parsed()
    monkeypatch.setattr("tokenizers.Tokenizer", Counted)
    section = lowered.read_tokenizer(folder).section
    assert section.encoder()("a") == section.encoder()("a")
    assert len(parsed) == 1
    sections.forget_parsed()
    assert section.encoder()("a")
    assert len(parsed) == 2
