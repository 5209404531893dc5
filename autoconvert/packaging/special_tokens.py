"""Tokens that frame a text or end an answer, and whether the model has a row for each."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoconvert.errors import InputError, Refused
from autoconvert.packaging.dialogues import Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def start_token(tokenizer: "PreTrainedTokenizerBase", samples: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    """The token that encoding puts before a text, found by encoding one of `samples`; None if it puts none.

    A declared `bos_token` says nothing about that. Raises Refused if several tokens are put before a text.
    """
    for text in samples:
        bare = tokenizer.encode(text, add_special_tokens=False)
        # Text of which nothing is known may leave no token.
        if bare:
            break
    framed = tokenizer.encode(text, add_special_tokens=True)
    at = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), None)
    if at is None or at > 1:
        raise Refused(
            f"the tokenizer frames a text as {framed[:8]}: the runtime puts one token before it, not several",
            hint="Convert with --format tflite and put the tokens there yourself.",
        )
    after = framed[at + len(bare) :]
    notes = (f"the tokenizer ends a text with {after}, which the runtime does not write",) if after else ()
    return (framed[0] if at else None), notes


def stop_tokens(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", end_of_turn: int | None, rows: int | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Tokens that end an answer, each once: of generation config, tokenizer and chat template; and notes.

    Those that the model cannot say, having `rows` tokens, are left out. Raises InputError for what is no token.
    """
    declared: list[int] = []
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        value = read_json(file).get("eos_token_id")
        if value is not None:
            declared = list(_tokens(value, file))
            break
    candidates = [*declared, tokenizer.eos_token_id, end_of_turn]
    tokens = dict.fromkeys(token for token in candidates if token is not None)
    unsaid = [token for token in tokens if token < 0 or (rows is not None and token >= rows)]
    notes = (f"stop tokens {unsaid} left out: the model has no such token",) if unsaid else ()
    return tuple(token for token in tokens if token not in unsaid), notes


def _tokens(value: Any, file: Path) -> Iterator[int]:
    """The token ids that a configuration declares: one, or a list."""
    for token in value if isinstance(value, list) else [value]:
        if isinstance(token, bool) or not isinstance(token, int | float) or token != token // 1:
            raise InputError(
                f"{file}: eos_token_id is {json.dumps(value)[:80]}, which is neither a token id nor a list of them",
                hint="Write the number of the token there, or a list of such numbers.",
            )
        yield int(token)


def refuse_tokens_without_row(
    tokenizer: "PreTrainedTokenizerBase", start: int | None, spoken: Sequence[Dialogue], rows: int | None
) -> tuple[str, ...]:
    """Notes on tokens for which the model, whose embedding has `rows`, has none; Refused where a text needs one."""
    if rows is None:
        return ()
    hint = "Give the model's embedding a row for each token (resize_token_embeddings), or its own tokenizer."
    beyond = {token: text for text, token in tokenizer.get_vocab().items() if token >= rows}
    if ordinary := sorted(beyond.keys() - tokenizer.added_tokens_decoder.keys()):
        raise Refused(
            f"the tokenizer has {len(ordinary)} tokens from {ordinary[0]} ({beyond[ordinary[0]]!r}) on for which the "
            f"model's embedding, of {rows} rows, has none",
            hint=hint,
        )
    if start is not None and start >= rows:
        raise Refused(f"each text starts with token {start}, and the embedding has {rows} rows", hint=hint)
    for dialogue in spoken:
        for rendering in dialogue.renderings:
            needed = [t for t in tokenizer.encode(rendering, add_special_tokens=False) if t >= rows]
            if needed:
                raise Refused(
                    f"the chat template writes {beyond.get(needed[0])!r}, token {needed[0]}, and the model's "
                    f"embedding has {rows} rows",
                    hint=hint,
                )
    if not beyond:
        return ()
    first = min(beyond)
    return (f"{len(beyond)} added tokens from {first} ({beyond[first]!r}) on left out: the embedding has {rows} rows",)


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`, empty if there is no such file. Raises InputError if it is not a JSON object."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text("utf-8"))
    # A file nested too deeply exhausts the stack of its reader.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}", hint="Fetch the file again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object", hint="Fetch the file again.")
    return content
