"""Faults of what a bundle says of text: tokenizer, the tokens that frame a text, chat template."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoconvert.packaging.tokenizer import TokenizerSpec


@dataclass(frozen=True)
class TextFault:
    """A fault in what is bundled, where the tokenizer `prepends_start` and `chats` or not.

    The message must have `said`.
    """

    name: str
    inject: Callable[[TokenizerSpec], TokenizerSpec]
    said: str
    prepends_start: bool = True
    chats: bool = False


def _start(tokenizer: TokenizerSpec) -> TokenizerSpec:
    """Another start token than the tokenizer puts before a text, or one where it puts none."""
    return dataclasses.replace(tokenizer, start=None if tokenizer.start is not None else 0)


def _stops(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Callable[[TokenizerSpec], TokenizerSpec]:
    return lambda tokenizer: dataclasses.replace(tokenizer, stops=change(tokenizer.stops))


def _in_json(change: Callable[[Any], None]) -> Callable[[TokenizerSpec], TokenizerSpec]:
    def inject(tokenizer: TokenizerSpec) -> TokenizerSpec:
        content = json.loads(tokenizer.section.content)
        change(content)
        section = dataclasses.replace(tokenizer.section, content=json.dumps(content).encode())
        return dataclasses.replace(tokenizer, section=section)

    return inject


def _merge(content: Any) -> None:
    """A merge is missing, so that a frequent pair stays two tokens."""
    del content["model"]["merges"][0]


def _rare_merge(content: Any) -> None:
    """The merge that was learned last is missing."""
    del content["model"]["merges"][-1]


def _added_token(content: Any) -> None:
    """The end of a turn is read as letters."""
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|end|>"]


def _template(change: Callable[[str], str]) -> Callable[[TokenizerSpec], TokenizerSpec]:
    def inject(tokenizer: TokenizerSpec) -> TokenizerSpec:
        assert tokenizer.chat is not None and tokenizer.chat.jinja is not None
        chat = dataclasses.replace(tokenizer.chat, jinja=change(tokenizer.chat.jinja))
        return dataclasses.replace(tokenizer, chat=chat)

    return inject


_TOKENIZER, _TEMPLATE = "the source's tokenizer (as|with)", "the source's chat template"

TEXT_FAULTS: tuple[TextFault, ...] = (
    TextFault("no start token", _start, _TOKENIZER),
    TextFault("a start token", _start, _TOKENIZER, prepends_start=False),
    TextFault("merge", _in_json(_merge), _TOKENIZER),
    TextFault("rare merge", _in_json(_rare_merge), _TOKENIZER),
    TextFault("no stop token", _stops(lambda stops: (stops[0] + 9,)), "does not stop at tokens"),
    TextFault("a stop token", _stops(lambda stops: (*stops, 99)), "stops at tokens .*99"),
    TextFault("added token", _in_json(_added_token), f"{_TOKENIZER}|{_TEMPLATE}", chats=True),
    TextFault("suffix of a turn", _template(lambda text: text.replace("<|end|>\n", "<|end|>")), _TEMPLATE, chats=True),
)
