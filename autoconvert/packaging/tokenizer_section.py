"""The form of a tokenizer that a bundle holds: the first that reads texts of many kinds as the tokenizer does."""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoconvert.errors import MachineError, Refused

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[str], list[int]]
Read = Callable[["TokenizerSection", Sequence[str]], list[list[int]]]

_PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\ta tab\n\nand new lines  ",
    "Grüße, señor! 你好世界。 Привет. 🙂👩‍💻 e\u0301",
    "x = [1, 22, 333, 4096]; print(f'{x!r}')  # 3.14e-10",
    "don't I'LL we've <b>bold</b> http://example.org/?q=1&r=2",
    "\u2581 \u00a0\u3000\u200b\r\n\ufeff ﬁ ½ Å İ ß ẞ 한국어 עברית ไทย",
    # A file may say to cut texts, or to fill them up.
    "In the beginning, and on the second day. " * 200,
)
_TOKENS_A_TEXT = 64
# The same of tokens of the vocabulary, and how many of those are read at most.
_WORDS_A_TEXT, _LARGEST_READ = 1024, 1 << 14


@dataclass(frozen=True)
class TokenizerSection:
    """A tokenizer as a `.litertlm` holds it.

    `kind` is "huggingface" for the text of a `tokenizer.json` and "sentencepiece" for a serialized model;
    `reason` says in a line why this form was chosen. `here` reads with the libraries of Python as `content` does in the
    runtime, where they are not the same.
    """

    kind: Literal["huggingface", "sentencepiece"]
    content: bytes
    reason: str
    here: bytes | None = None

    def encoder(self) -> Encode:
        """What reads a text as the runtime does, without a start token."""
        encoder = huggingface_encoder if self.kind == "huggingface" else sentencepiece_encoder
        return encoder(self.content if self.here is None else self.here)


@dataclass(frozen=True)
class Reading:
    """A text and the tokens that it is read as, without those that frame it."""

    text: str
    ids: tuple[int, ...]


def readings(tokenizer: "PreTrainedTokenizerBase", rows: int | None) -> tuple[Reading, ...]:
    """Texts of many kinds, each added token and those of all the vocabulary among them, as `tokenizer` reads them.

    Left out are those that need more than the model's `rows` of embedding, which the model cannot read.
    """
    named = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    added = [
        token
        for token in dict.fromkeys([*named, *tokenizer.all_special_tokens])
        # A special token may be named that the vocabulary lacks; the runtime ends a text at a NUL.
        if token and "\0" not in token and _has_row(tokenizer.convert_tokens_to_ids(token), rows)
    ]
    groups = [added[i : i + _TOKENS_A_TEXT] for i in range(0, len(added), _TOKENS_A_TEXT)]
    texts = (
        *_PROBES,
        *("".join(f"{token}a {token} b\n" for token in group) for group in groups),
        *_of_the_vocabulary(tokenizer, rows),
    )
    read = [Reading(text, tuple(tokenizer.encode(text, add_special_tokens=False))) for text in texts]
    return tuple(reading for reading in read if rows is None or all(token < rows for token in reading.ids))


def _of_the_vocabulary(tokenizer: "PreTrainedTokenizerBase", rows: int | None) -> list[str]:
    """What the tokens themselves say, of a large vocabulary every so many: a text needs few merges, these need all."""
    count = len(tokenizer) if rows is None else min(len(tokenizer), rows)
    spread = range(0, count, 1 + count // _LARGEST_READ)
    # Of some ids there is no token; some are a part of a character, and the runtime ends a text at a NUL.
    tokens = [token for token in tokenizer.convert_ids_to_tokens(list(spread)) if token is not None]
    said = [text for token in tokens if not {"\0", "\ufffd"} & set(text := tokenizer.convert_tokens_to_string([token]))]
    return ["\n".join(said[i : i + _WORDS_A_TEXT]) for i in range(0, len(said), _WORDS_A_TEXT)]


def _has_row(token: int | None, rows: int | None) -> bool:
    return token is not None and (rows is None or token < rows)


def choose_section(
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    wanted: Sequence[Reading],
    rows: int | None = None,
    read_there: Read | None = None,
) -> TokenizerSection:
    """The first form that gives the tokenizer's own ids for `wanted`, and none of `rows` or more.

    `tokenizer.json` comes first because it also holds normalisation and added tokens, which a SentencePiece
    model does not; a tokenizer that differs from its files is written out anew. Where `read_there` reads texts in the
    runtime, the form must do there too. Raises Refused if none fits.
    """
    texts, ids = [reading.text for reading in wanted], [list(reading.ids) for reading in wanted]
    exact_here = False
    for kind, reason, make in _forms(folder, tokenizer, rows):
        # Foreign files and foreign libraries: what cannot be made or read is no form of this tokenizer.
        try:
            section = TokenizerSection(kind, make(), reason)
            encode = section.encoder()
            if [encode(text) for text in texts] != ids:
                continue
            exact_here = True
            for form in (section, *_with_other_flags(section)):
                if read_there is None or read_there(form, texts) == ids:
                    return form
        except MachineError:
            raise
        except Exception:
            continue
    which = "reads it in another way than its library here" if exact_here else "has no form of it with its token ids"
    raise Refused(
        f"the tokenizer in {folder} cannot go into a bundle: the runtime {which}",
        hint="Save a fast tokenizer (tokenizer.json) of usual parts for the model, or ask for --format tflite.",
    )


def _with_other_flags(section: TokenizerSection) -> Iterator[TokenizerSection]:
    """The same with its patterns for the runtime's library, where a dot meets a new line by another flag."""
    content = section.content.replace(b'"Regex":"(?m', b'"Regex":"(?s').replace(b'"Regex": "(?m', b'"Regex": "(?s')
    if section.kind == "huggingface" and content != section.content:
        reason = f"{section.reason}; its patterns with the runtime's flags"
        yield TokenizerSection(section.kind, content, reason, here=section.content)


def _forms(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", rows: int | None
) -> Iterator[tuple[Literal["huggingface", "sentencepiece"], str, Callable[[], bytes]]]:
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    whole = folder / "tokenizer.json"
    if whole.is_file():
        yield "huggingface", "tokenizer.json: exact, with added tokens", lambda: plain_json(whole.read_bytes(), rows)
    models = sorted(folder.glob("*.model"), key=lambda file: file.name != "tokenizer.model")
    for file in models:
        yield "sentencepiece", f"{file.name}: exact by itself", partial(_pieces, file, {}, rows)
    written = "written from the loaded tokenizer: no file of the folder alone gives its token ids"
    core: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None:
        yield "huggingface", written, lambda: plain_json(core.to_str().encode(), rows)
    added = {token: str(content) for token, content in tokenizer.added_tokens_decoder.items()}
    for file in models:
        yield "sentencepiece", f"{file.name}: with added tokens as its symbols", partial(_pieces, file, added, rows)
    if core is None:
        for file in models:
            yield "huggingface", f"{file.name} as a tokenizer.json", partial(_pieces_as_json, file, added, rows)
        yield "huggingface", written, lambda: plain_json(convert_slow_tokenizer(tokenizer).to_str().encode(), rows)


def plain_json(content: bytes, rows: int | None = None) -> bytes:
    """A `tokenizer.json` that neither cuts nor fills up a text and knows no token of `rows` or more; mostly as it is.

    Raises ValueError if it is none.
    """
    core = _parsed(content)
    beyond = {} if rows is None else {t: i for t, i in core.get_vocab(with_added_tokens=True).items() if i >= rows}
    if core.truncation is None and core.padding is None and not beyond:
        return content
    parts = json.loads(content)
    parts["truncation"] = parts["padding"] = None
    if beyond:
        parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] not in beyond]
        _shorten(parts["model"], beyond, rows)
    return json.dumps(parts, ensure_ascii=False).encode("utf-8")


def _shorten(model: dict[str, object], beyond: Collection[str], rows: int | None) -> None:
    """Takes the tokens `beyond` the rows out of a model's vocabulary and merges, where they are there too."""
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocabulary, list):
        model["vocab"] = vocabulary[:rows]
    elif isinstance(vocabulary, dict):
        model["vocab"] = {token: number for token, number in vocabulary.items() if token not in beyond}
    if isinstance(merges, list):
        pairs = [(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in merges]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & set(beyond)]


def with_symbols(content: bytes, added: dict[int, str]) -> bytes:
    """A SentencePiece model that finds the `added` tokens in a text, as a tokenizer does that surrounds it."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    symbol, unknown = model.SentencePiece.USER_DEFINED, model.SentencePiece.UNKNOWN
    for token, text in sorted(added.items()):
        if token == len(model.pieces):
            model.pieces.add(piece=text, score=0.0, type=symbol)
        elif model.pieces[token].piece != text:
            raise ValueError(f"token {token} is {model.pieces[token].piece!r}, not {text!r}")
        elif model.pieces[token].type != unknown:
            model.pieces[token].type = symbol
    return bytes(model.SerializeToString())


def _pieces(file: Path, added: dict[int, str], rows: int | None) -> bytes:
    from sentencepiece import SentencePieceProcessor

    content = with_symbols(file.read_bytes(), added) if added else file.read_bytes()
    size = SentencePieceProcessor(model_proto=content).get_piece_size()
    if rows is not None and size > rows:
        raise ValueError(f"{size} pieces, {rows} rows")
    return content


def _pieces_as_json(file: Path, added: dict[int, str], rows: int | None) -> bytes:
    """A SentencePiece model as a `tokenizer.json` that reads each stretch between added tokens by itself."""
    from transformers import LlamaTokenizer

    # Any reader of such models does: what it sets up around the vocabulary is replaced.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(file, Path(folder, "tokenizer.model"))
        parts = json.loads(LlamaTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str())
    blank = "\u2581"
    spaced = {"type": "Replace", "pattern": {"String": " "}, "content": blank}
    parts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": blank}, spaced]}
    parts["pre_tokenizer"] = parts["post_processor"] = None
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    parts["added_tokens"] = [{"id": token, "content": text, **flags, "special": True} for token, text in added.items()]
    return plain_json(json.dumps(parts).encode(), rows)


@lru_cache(1)
def _parsed(content: bytes) -> "Tokenizer":
    """Half a second for a large vocabulary, and many times the memory of `content`: see `forget_parsed`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(content.decode("utf-8"))


def forget_parsed() -> None:
    """Frees what was kept of the last `tokenizer.json` for its next reader."""
    _parsed.cache_clear()


def huggingface_encoder(content: bytes) -> Encode:
    core = _parsed(content)
    return lambda text: list(core.encode(text, add_special_tokens=False).ids)


def sentencepiece_encoder(content: bytes) -> Encode:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=content)
    return lambda text: list(processor.encode(text))
