"""A chat template as the text before and after each role's content, where it is no more than that."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoconvert.packaging.dialogues import Message, assistant, render, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTENT = "Zaphod"


@dataclass(frozen=True)
class Affixes:
    """What the template writes before and after the text of each role; `system` is None if it takes none."""

    user: tuple[str, str]
    model: tuple[str, str]
    system: tuple[str, str] | None


def derive_affixes(tokenizer: "PreTrainedTokenizerBase", source: str, start: str) -> Affixes | None:
    """The text around each role's content, from renderings; None if turns are not prefix, text, suffix.

    `start` is the text of the token that the runtime writes before a chat.
    """

    def rendered(*messages: Message, generate: bool = False) -> str:
        return render(tokenizer, source, messages, generate=generate).removeprefix(start)

    def split(before: str, after: str) -> tuple[str, str] | None:
        parts = after.removeprefix(before).split(_CONTENT)
        return (parts[0], parts[1]) if after.startswith(before) and len(parts) == 2 else None

    question, answer = user(_CONTENT), assistant(_CONTENT)
    try:
        asked = rendered(question)
        prompted = rendered(question, generate=True)
        answered = rendered(question, answer)
        asked_again = rendered(question, answer, question)
    # A template is a foreign program: whatever it raises, it does not take such turns.
    except Exception:
        return None
    first, model, second = split("", asked), split(asked, answered), split(answered, asked_again)
    if first is None or model is None or first != second or prompted != asked + model[0]:
        return None
    try:
        with_system = rendered({"role": "system", "content": _CONTENT}, question)
    except Exception:
        return Affixes(first, model, None)
    return Affixes(first, model, split("", with_system.removesuffix(asked)))
