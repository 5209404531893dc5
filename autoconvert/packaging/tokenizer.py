"""The tokenizer of a model folder: the section that the runtime reads, and what else a bundle says about text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoconvert.errors import InputError
from autoconvert.packaging.chat_template import ChatTemplate, Renderer, read_chat_template
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.passage import ENGLISH, Texts, choose_texts
from autoconvert.packaging.special_tokens import read_json, refuse_tokens_without_row, start_token, stop_tokens
from autoconvert.packaging.tokenizer_section import Encode, Read, Reading, TokenizerSection, choose_section, readings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "*.tiktoken", "tekken.json")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Trial:
    """The runtime, to choose by: how it reads texts with a tokenizer and renders dialogues with a template."""

    read: Read
    render: Renderer


@dataclass(frozen=True)
class TokenizerSpec:
    """What a bundle says about text, and what that is checked by.

    `start` is the token that the tokenizer itself puts before a text, None if it puts none; `stops` are the
    tokens that end an answer; `notes` are sentences for the report about what could not be kept as it was. The rest is
    what the source's tokenizer makes of texts and chats: `readings`, `dialogues`, and texts to run the model on.
    """

    section: TokenizerSection
    start: int | None
    stops: tuple[int, ...]
    pad: int | None
    chat: ChatTemplate | None
    notes: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    dialogues: tuple[Dialogue, ...] = ()
    texts: Texts = ENGLISH

    def encoder(self) -> Encode:
        """What reads a text as the runtime does at the beginning of a session: with the start token."""
        encode, first = self.section.encoder(), [] if self.start is None else [self.start]
        return lambda text: [*first, *encode(text)]


def read_tokenizer(
    folder: Path, *, trust_remote_code: bool = False, rows: int | None = None, trial: Trial | None = None
) -> TokenizerSpec:
    """Reads tokenizer files, `generation_config.json` and the chat template of a model folder.

    `rows` are those of the model's embedding, as far as known. By `trial` forms of the tokenizer and of the template
    are chosen that work in the runtime; without it the first ones are taken that should.
    Raises InputError if the folder has no tokenizer or it cannot be loaded, Refused if the runtime has no
    form of it that gives the same token ids, or if the model has no row for a token that texts need.
    """
    tokenizer, notes = _load(folder, trust_remote_code)
    read = readings(tokenizer, rows)
    _refuse_what_reads_nothing(folder, tokenizer, read)
    start, start_notes = start_token(tokenizer, ["a", *(reading.text for reading in read)])
    section = choose_section(folder, tokenizer, read, rows, trial.read if trial else None)
    chat, dialogues, chat_notes = read_chat_template(tokenizer, start, trial.render if trial else None)
    row_notes = refuse_tokens_without_row(tokenizer, start, dialogues, rows)
    stops, stop_notes = stop_tokens(folder, tokenizer, chat.end_of_turn if chat else None, rows)
    pad = tokenizer.pad_token_id
    return TokenizerSpec(
        section=section,
        start=start,
        stops=stops,
        pad=pad if pad is not None and (rows is None or pad < rows) else None,
        chat=chat,
        notes=(*notes, *start_notes, *row_notes, *stop_notes, *chat_notes),
        readings=read,
        dialogues=dialogues,
        texts=choose_texts(section.encoder(), tokenizer, rows),
    )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """The tokenizer as transformers users get it. Raises InputError that says what is missing or broken."""
    return _load(folder, trust_remote_code)[0]


def _load(folder: Path, trust_remote_code: bool) -> tuple["PreTrainedTokenizerBase", tuple[str, ...]]:
    """The tokenizer, and notes on what of it could not be loaded."""
    # A module in memory converts without transformers; only a tokenizer's folder needs it.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config = read_json(folder / "tokenizer_config.json")
    auto_map = config.get("auto_map")
    own_code = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else None
    if not own_code and not any(next(folder.glob(name), None) for name in _FILES):
        raise InputError(
            f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model",
            hint="Put the model's tokenizer.json beside its config.json, or ask for --format tflite, "
            "which needs no tokenizer.",
        )
    whole = folder / "tokenizer.json"
    loads: list[tuple[Callable[[], Any], str]] = [
        # Without an answer transformers would ask on the terminal whether to run a folder's code.
        (lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code), "")
    ]
    if whole.is_file() and not own_code:
        loads += [
            (lambda: PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True), "without its own class"),
            (lambda: _from_json(whole, config), "from tokenizer.json, special tokens and chat template alone"),
        ]
    errors: list[Exception] = []
    for load, how in loads:
        # A foreign library reads foreign files: it may raise anything.
        try:
            tokenizer = load()
            tokenizer.encode("what it is asked for later")
        except Exception as error:
            errors.append(error)
            continue
        notes = (f"the tokenizer was read {how}: {_line(errors[0])}",) if errors else ()
        return tokenizer, notes + _lost_template(folder, tokenizer)
    if own_code and not trust_remote_code:
        raise InputError(
            f"the tokenizer in {folder} needs Python code of its own: {own_code}",
            hint="Read that code and, if you trust it, convert with --trust-remote-code; --format tflite needs no "
            "tokenizer.",
        )
    raise InputError(
        f"the tokenizer in {folder} cannot be loaded: {_line(errors[-1])}",
        hint="Check the tokenizer files; one that this version of transformers cannot load can be saved as "
        "tokenizer.json first.",
    ) from errors[-1]


def _from_json(whole: Path, config: dict[str, Any]) -> "PreTrainedTokenizerBase":
    from transformers import PreTrainedTokenizerFast

    special = {}
    for name in _SPECIAL:
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            special[name] = token
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(whole), **special)
    template, file = config.get("chat_template"), whole.parent / "chat_template.jinja"
    if file.is_file():
        template = file.read_text("utf-8")
    if isinstance(template, str):
        tokenizer.chat_template = template
    return tokenizer


def _lost_template(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Says where a template lies that the tokenizer did not load."""
    if tokenizer.chat_template or "chat_template" not in read_json(folder / "chat_template.json"):
        return ()
    return (
        "no chat template: the tokenizer has none, and chat_template.json belongs to a processor; save it as "
        "chat_template.jinja to have it in the bundle",
    )


def _refuse_what_reads_nothing(folder: Path, tokenizer: "PreTrainedTokenizerBase", read: Sequence[Reading]) -> None:
    """A library that misses a tokenizer's vocabulary makes one that knows no text."""
    added = tokenizer.added_tokens_decoder.keys()
    if all(token == tokenizer.unk_token_id or token in added for reading in read for token in reading.ids):
        raise InputError(
            f"the tokenizer in {folder} knows no text: {len(tokenizer)} tokens were loaded as "
            f"{type(tokenizer).__name__}",
            hint="Check tokenizer_class in tokenizer_config.json, and that all files of the tokenizer are there.",
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
