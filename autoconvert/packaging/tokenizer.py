"""The tokenizer of a model folder: the section that the runtime reads, and the tokens that frame a text."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autoconvert.errors import InputError, Refused
from autoconvert.packaging.chat_template import ChatTemplate, read_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Encode = Callable[[str], list[int]]

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\ta tab\n\nand new lines  ",
    "Grüße, señor! 你好世界。 Привет. 🙂👩‍💻 e\u0301",
    "x = [1, 22, 333, 4096]; print(f'{x!r}')  # 3.14e-10",
    "don't I'LL we've <b>bold</b> http://example.org/?q=1&r=2",
)


@dataclass(frozen=True)
class TokenizerSection:
    """A tokenizer as a `.litertlm` holds it.

    `kind` is "huggingface" for the text of a `tokenizer.json` and "sentencepiece" for a serialized model;
    `reason` says in a line why this form was chosen.
    """

    kind: Literal["huggingface", "sentencepiece"]
    content: bytes
    reason: str


@dataclass(frozen=True)
class TokenizerSpec:
    """What a bundle says about text.

    `start` is the token that the tokenizer itself puts before a text, None if it puts none; `stops` are the
    tokens that end an answer; `notes` are sentences for the report about what could not be kept as it was.
    """

    section: TokenizerSection
    start: int | None
    stops: tuple[int, ...]
    pad: int | None
    chat: ChatTemplate | None
    notes: tuple[str, ...] = ()


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> TokenizerSpec:
    """Reads tokenizer files, `generation_config.json` and the chat template of a model folder.

    Raises InputError if the folder has no tokenizer or it cannot be loaded, Refused if the runtime has no
    form of it that gives the same token ids.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    start, notes = start_token(tokenizer)
    chat, chat_notes = read_chat_template(tokenizer, start)
    return TokenizerSpec(
        section=choose_section(folder, tokenizer),
        start=start,
        stops=stop_tokens(folder, tokenizer, chat),
        pad=tokenizer.pad_token_id,
        chat=chat,
        notes=notes + chat_notes,
    )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer as transformers users get it. Raises InputError that says what is missing or broken."""
    # A module in memory converts without transformers; only a tokenizer's folder needs it.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = [folder / name for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")]
    if not any(file.is_file() for file in files):
        raise InputError(
            f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model",
            hint="Put the model's tokenizer.json beside its config.json, or ask for --format tflite, "
            "which needs no tokenizer.",
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as first:
        error = first
        if files[0].is_file():
            try:
                return PreTrainedTokenizerFast(tokenizer_file=str(files[0]))
            except Exception as second:
                error = second
        raise InputError(
            f"the tokenizer in {folder} cannot be loaded: {error}",
            hint="Check the tokenizer files; a tokenizer that needs its own Python code must be saved as "
            "tokenizer.json first.",
        ) from error


def choose_section(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> TokenizerSection:
    """The first form that gives the tokenizer's own ids for texts of many kinds and its special tokens.

    `tokenizer.json` comes first because it also holds normalisation and added tokens, which a SentencePiece
    model does not; a tokenizer that differs from its files is written out anew. Raises Refused if none fits.
    """
    from transformers import PreTrainedTokenizerFast

    wanted = [tokenizer.encode(text, add_special_tokens=False) for text in probes(tokenizer)]

    def exact(encode: Encode) -> bool:
        return all(encode(text) == ids for text, ids in zip(probes(tokenizer), wanted, strict=True))

    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file() and exact(huggingface_encoder(whole.read_bytes())):
        return TokenizerSection("huggingface", whole.read_bytes(), "tokenizer.json: exact, with added tokens")
    if pieces.is_file() and exact(sentencepiece_encoder(pieces.read_bytes())):
        return TokenizerSection("sentencepiece", pieces.read_bytes(), "tokenizer.model: exact by itself")
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        content = serialize(tokenizer)
        if exact(huggingface_encoder(content)):
            reason = "written from the loaded tokenizer: no file of the folder alone gives its token ids"
            return TokenizerSection("huggingface", content, reason)
    raise Refused(
        f"no form of the tokenizer in {folder} that the runtime reads gives its token ids",
        hint="Save a fast tokenizer (tokenizer.json) for the model, or ask for --format tflite.",
    )


def probes(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Texts of many kinds, and the special tokens inside a text as a chat template writes them."""
    return (*PROBES, "".join(f"{token}a\n" for token in tokenizer.all_special_tokens))


def huggingface_encoder(content: bytes) -> Encode:
    from tokenizers import Tokenizer

    core = Tokenizer.from_str(content.decode("utf-8"))
    core.no_truncation()
    core.no_padding()
    return lambda text: list(core.encode(text, add_special_tokens=False).ids)


def sentencepiece_encoder(content: bytes) -> Encode:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=content)
    return lambda text: list(processor.encode(text))


def serialize(tokenizer: "PreTrainedTokenizerFast") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tokenizer.json")
        tokenizer.backend_tokenizer.save(str(file))
        return file.read_bytes()


def start_token(tokenizer: "PreTrainedTokenizerBase") -> tuple[int | None, tuple[str, ...]]:
    """The token that encoding puts before a text, found by encoding one; None if it puts none.

    A declared `bos_token` says nothing about that. Raises Refused if several tokens are put before a text.
    """
    bare = tokenizer.encode("a", add_special_tokens=False)
    framed = tokenizer.encode("a", add_special_tokens=True)
    at = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), None)
    if at is None or at > 1:
        raise Refused(
            f"the tokenizer frames a text as {framed}: the runtime puts one token before it, not several",
            hint="Convert with --format tflite and put the tokens there yourself.",
        )
    after = framed[at + len(bare) :]
    notes = (f"the tokenizer ends a text with {after}, which the runtime does not write",) if after else ()
    return (framed[0] if at else None), notes


def stop_tokens(folder: Path, tokenizer: "PreTrainedTokenizerBase", chat: ChatTemplate | None) -> tuple[int, ...]:
    """Tokens that end an answer: of generation config, tokenizer and chat template, each once."""
    declared = read_json(folder / "generation_config.json").get("eos_token_id")
    if declared is None:
        declared = read_json(folder / "config.json").get("eos_token_id")
    listed = declared if isinstance(declared, list) else [declared]
    candidates = [*listed, tokenizer.eos_token_id, chat.end_of_turn if chat else None]
    return tuple(dict.fromkeys(token for token in candidates if token is not None))


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`, empty if there is no such file. Raises InputError if it is not a JSON object."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}", hint="Fetch the file again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object", hint="Fetch the file again.")
    return content
