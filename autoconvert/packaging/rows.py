"""Tokens that the tokenizer has and the model's embedding has no row for, as after one was added without a resize."""

import dataclasses
from collections.abc import Mapping

from autoconvert.errors import InputError
from autoconvert.packaging.chat_template import ChatTemplate
from autoconvert.packaging.tokenizer import TokenizerSection, TokenizerSpec


def within_rows(tokenizer: TokenizerSpec, rows: int) -> TokenizerSpec:
    """The tokenizer, with what is to be said of tokens beyond an embedding of so many `rows`.

    Where only a text that spells one out could need it, that is a note; and it ends no answer, since it is never given.

    Raises:
        InputError: every text, or every chat, begins with one or holds one.
    """
    lacking = {word: token for word, token in _words(tokenizer.section).items() if token >= rows}
    if not lacking and all(0 <= token < rows for token in tokenizer.stops):
        return tokenizer
    hint = "resize the model's embedding to the tokenizer (resize_token_embeddings), or remove the added tokens"
    if tokenizer.start is not None and tokenizer.start >= rows:
        raise InputError(f"a text starts with token {tokenizer.start}, and the embedding has {rows} rows", hint=hint)
    written = _written(tokenizer.chat)
    if used := next((word for word in lacking if word in written), None):
        raise InputError(
            f"the chat template writes {used}, token {lacking[used]}, and the embedding has {rows} rows", hint=hint
        )
    notes = [*tokenizer.notes]
    if lacking:
        words = ", ".join(sorted(lacking, key=lambda word: lacking[word])[:3])
        notes.append(f"{len(lacking)} tokens have no row in the embedding of {rows}: a text that holds {words} fails")
    stops = tuple(token for token in tokenizer.stops if 0 <= token < rows)
    if outside := [str(token) for token in tokenizer.stops if token not in stops]:
        notes.append(f"tokens that would end an answer and are none of the model's {rows}: {', '.join(outside)}")
    return dataclasses.replace(tokenizer, stops=stops, notes=tuple(notes))


def _words(section: TokenizerSection) -> Mapping[str, int]:
    """Every token by its text."""
    if section.kind == "huggingface":
        from tokenizers import Tokenizer

        vocabulary: dict[str, int] = Tokenizer.from_str(section.content.decode("utf-8")).get_vocab(True)
        return vocabulary
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=section.content)
    return {processor.id_to_piece(token): token for token in range(processor.get_piece_size())}


def _written(chat: ChatTemplate | None) -> str:
    """All that a chat may write around the texts of its messages."""
    if chat is None:
        return ""
    affixes = chat.affixes
    parts = [affix for role in (affixes.user, affixes.model, affixes.system or ()) for affix in role] if affixes else []
    return "\n".join([chat.jinja or "", *parts])
