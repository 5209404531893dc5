"""Chats of several turns in the runtime, beside what the source's template makes of them."""

from collections.abc import Sequence

import litert_lm

from autoconvert.errors import CheckFailed
from autoconvert.packaging.chat_template import Turn, differing_turn
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.runtime.engine import GREEDY

_HINT = "The chat template does not work in the runtime: report it, and prompt with whole texts."


def check_dialogues(wanted: Sequence[Dialogue], found: Sequence[Sequence[Turn]]) -> None:
    """Compares what the runtime renders at each question. Raises CheckFailed at the first that is another."""
    for dialogue, turns in zip(wanted, found, strict=True):
        number = differing_turn(dialogue, turns)
        if number is None:
            continue
        turn, text = turns[number], dialogue.renderings[number]
        if turn.whole != text:
            raise CheckFailed(
                f"the runtime renders question {number + 1} of a chat {dialogue.name} as {turn.whole!r}, the source's "
                f"chat template as {text!r}",
                hint=_HINT,
            )
        raise CheckFailed(
            f"question {number + 1} of a chat {dialogue.name} fails in the runtime: its rendering does not begin with "
            f"that of what is before it, {turn.before!r}",
            hint=_HINT,
        )


def ask_in_turn(engine: litert_lm.Engine, opening: Sequence[dict[str, object]], questions: Sequence[str]) -> int:
    """Sends `questions` one after the other, with one token of answer to each; the number that was answered."""
    # One token cannot fail for bytes that are no text yet.
    with engine.create_conversation(messages=list(opening), sampler_config=GREEDY, max_output_tokens=1) as conversation:
        for number, question in enumerate(questions):
            try:
                conversation.send_message(question)
            except RuntimeError:
                return number
    return len(questions)


def check_answered(questions: Sequence[str], answered: int) -> None:
    """Raises CheckFailed if fewer of the `questions` of a chat were `answered`."""
    if answered < len(questions):
        raise CheckFailed(
            f"message {answered + 1} of a chat fails in the runtime, after {answered} that were answered", hint=_HINT
        )
