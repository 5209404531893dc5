"""Tokens that the embedding has no row for: refused where every chat needs them, told where only a text may."""

import dataclasses

import pytest

from autoconvert.errors import InputError
from autoconvert.packaging.chat_template import Affixes, ChatTemplate
from autoconvert.packaging.rows import within_rows
from autoconvert.packaging.tokenizer import TokenizerSection, TokenizerSpec, serialize
from tests.packaging.tiny_bundle import byte_level_tokenizer


@pytest.fixture(scope="module")
def spec() -> TokenizerSpec:
    tokenizer = byte_level_tokenizer(prepends_start=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    return TokenizerSpec(TokenizerSection("huggingface", serialize(tokenizer), ""), 0, (1,), None, None)


def rows(spec: TokenizerSpec) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_str(spec.section.content.decode()).get_vocab_size(True))


def chat(text: str) -> ChatTemplate:
    return ChatTemplate(text, Affixes(("", ""), ("", ""), None), None, False)


def test_a_tokenizer_that_fits_is_left_alone(spec: TokenizerSpec) -> None:
    assert within_rows(spec, rows(spec)) is spec
    assert within_rows(spec, rows(spec) + 64) is spec


def test_a_token_that_only_a_text_could_need_is_told(spec: TokenizerSpec) -> None:
    fitted = within_rows(spec, rows(spec) - 1)
    assert "1 tokens have no row" in fitted.notes[0] and "<|turn|>" in fitted.notes[0]


def test_a_chat_that_writes_one_is_an_error(spec: TokenizerSpec) -> None:
    with pytest.raises(InputError, match=r"the chat template writes <\|turn\|>"):
        within_rows(dataclasses.replace(spec, chat=chat("<|turn|>{{ x }}")), rows(spec) - 1)
    assert within_rows(dataclasses.replace(spec, chat=chat("{{ x }}")), rows(spec) - 1).notes


def test_a_text_that_starts_with_one_is_an_error(spec: TokenizerSpec) -> None:
    with pytest.raises(InputError, match="a text starts with token"):
        within_rows(dataclasses.replace(spec, start=rows(spec) - 1), rows(spec) - 1)


def test_an_end_that_is_never_given_ends_nothing_and_is_told(spec: TokenizerSpec) -> None:
    fitted = within_rows(dataclasses.replace(spec, stops=(1, 151643, -1)), rows(spec))
    assert fitted.stops == (1,)
    assert "151643, -1" in fitted.notes[0]
