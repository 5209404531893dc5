"""The token ids that the files of a folder name, before anybody computes with them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoconvert.errors import InputError

_FILES = ("generation_config.json", "config.json")
_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def check_token_ids(folder: Path) -> None:
    """Raise InputError, with file and field, where a token id is neither a whole number, nor several, nor null."""
    for name in _FILES:
        file = folder / name
        content = _object_in(file) if file.is_file() else {}
        for scope, fields in (("", content), ("text_config.", content.get("text_config"))):
            known: dict[str, Any] = fields if isinstance(fields, dict) else {}
            for field in _FIELDS:
                value = known.get(field)
                if value is not None and not all(_is_id(each) for each in _listed(value)):
                    raise InputError(
                        f"{file}: {scope}{field} is {json.dumps(value)[:80]}, not a whole number or a list of them",
                        hint="write the token's number, as the tokenizer gives it",
                    )


def _object_in(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}", hint="Fetch the file again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object", hint="Fetch the file again.")
    return content


def _listed(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else [value]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31
