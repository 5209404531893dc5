"""Texts to run a model on that its tokenizer knows, whatever its alphabet."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import TYPE_CHECKING

from autoconvert.packaging.tokenizer_section import Encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of the vocabulary that are looked at, and pairs that are tried.
_PIECES, _NEIGHBOURS, _TRIALS = 400, 24, 4000
_WORDS = 120
_ENOUGH = 4


@dataclass(frozen=True)
class Texts:
    """A `passage` that may be repeated without end, a `target` to score behind it, and `twins`.

    Twins are pairs of texts whose tokens differ in the last but one alone; there may be none.
    """

    passage: str = (
        "The small house at the end of the road was empty when we came back in the evening, and nobody knew "
        "why the door stood open. A dog slept on the step; 2 chairs, 3 cups and an old radio were all we saw. "
    )
    target: str = " and then it was"
    twins: tuple[tuple[str, str], ...] = ()


ENGLISH = Texts()


def choose_texts(encode: Encode, tokenizer: "PreTrainedTokenizerBase", rows: int | None) -> Texts:
    """English where `encode`, which frames no text, knows nearly all of it; else texts of the vocabulary's own."""
    unknown, english = tokenizer.unk_token_id, ENGLISH
    pieces = _pieces(encode, tokenizer, rows)
    ids = encode(english.passage)
    if not pieces or (ids.count(unknown) * 8 <= len(ids) and len(set(ids)) >= 8 and len(encode(english.target)) > 1):
        passage, target = english.passage, english.target
    else:
        chosen = random.Random(0).choices(pieces, k=_WORDS)
        passage, target = "".join(chosen), "".join(chosen[3:7])
    twins = tuple(islice(_twins(encode, pieces), _ENOUGH))
    return Texts(passage, target, twins)


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


def _twins(encode: Encode, pieces: Sequence[str]) -> Iterator[tuple[str, str]]:
    frames = [f"{before}{{}}{after}" for before, after in (("x", "y"), ("(", ")"), ("a ", " b"), ("we saw ", " cats"))]
    words = [("1", "2"), ("+", "="), ("two", "ten"), ("!", "?")]
    english = ((frame.format(a), frame.format(b)) for frame, (a, b) in product(frames, words))
    shuffled = random.Random(1).sample(list(pieces), len(pieces))
    own = (
        (f"{last}{a}{last}", f"{last}{b}{last}")
        for last, (a, b) in product(shuffled[:8], combinations(shuffled[-_NEIGHBOURS:], 2))
    )
    for first, second in (*english, *islice(own, _TRIALS)):
        a, b = encode(first), encode(second)
        if 3 <= len(a) == len(b) and [i for i in range(len(a)) if a[i] != b[i]] == [len(a) - 2]:
            yield first, second
