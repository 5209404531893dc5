"""Texts to run a model on that its tokenizer knows, whatever its alphabet."""

import random
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoconvert.packaging.tokenizer_section import Encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of the vocabulary that are looked at.
_PIECES = 400
_WORDS = 120
# Tokens of a target at most, or a few more: each is a step of the model, and a small vocabulary reads letters.
_SCORED = 4


@dataclass(frozen=True)
class Texts:
    """A `passage` that may be repeated without end, and a `target` to score behind it."""

    passage: str = (
        "The small house at the end of the road was empty when we came back in the evening, and nobody knew "
        "why the door stood open. A dog slept on the step; 2 chairs, 3 cups and an old radio were all we saw. "
    )
    target: str = " and then it was"


ENGLISH = Texts()


def choose_texts(encode: Encode, tokenizer: "PreTrainedTokenizerBase", rows: int | None) -> Texts:
    """English where `encode`, which frames no text, knows nearly all of it; else texts of the vocabulary's own."""
    unknown, english = tokenizer.unk_token_id, ENGLISH
    pieces = _pieces(encode, tokenizer, rows)
    ids = encode(english.passage)
    if not pieces or (ids.count(unknown) * 8 <= len(ids) and len(set(ids)) >= 8 and len(encode(english.target)) > 1):
        return replace(english, target=_beginning(encode, english.target))
    chosen = random.Random(0).choices(pieces, k=_WORDS)
    return Texts("".join(chosen), _beginning(encode, "".join(chosen[3:7])))


def _beginning(encode: Encode, target: str) -> str:
    """As much of `target` as is to be scored."""
    return text_of_length(encode, target, _SCORED) if len(encode(target)) > _SCORED else target


def _pieces(encode: Encode, tokenizer: "PreTrainedTokenizerBase", rows: int | None) -> list[str]:
    """Texts of single ordinary tokens that are read as known tokens."""
    added, unknown = tokenizer.added_tokens_decoder.keys(), tokenizer.unk_token_id
    vocabulary = sorted(token for token in tokenizer.get_vocab().values() if token not in added)
    vocabulary = [token for token in vocabulary if rows is None or token < rows]
    found = []
    for token in vocabulary[:: max(1, len(vocabulary) // _PIECES)]:
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        # The runtime ends a text at a NUL; a replacement character stands for bytes that are no text.
        if text and not {"\0", "\ufffd"} & set(text) and (ids := encode(text)) and unknown not in ids:
            found.append(text)
    return found


def text_of_length(encode: Encode, passage: str, length: int) -> str:
    """The shortest beginning of `passage`, repeated without end, that has `length` tokens, rarely more."""
    endless = passage
    while len(encode(endless)) < length:
        endless += endless
    return endless[: bisect_left(range(len(endless)), length, key=lambda end: len(encode(endless[:end])))]
