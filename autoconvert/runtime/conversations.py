"""What the runtime makes of texts and chats: tokens, and each question of a dialogue as a conversation renders it."""

from collections.abc import Mapping, Sequence
from typing import Any

import litert_lm

from autoconvert.packaging.adapted_template import as_parts
from autoconvert.packaging.chat_template import Turn
from autoconvert.packaging.dialogues import Dialogue


class _Described(litert_lm.Tool):  # type: ignore[misc]
    """A tool that is only described."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._description = dict(description)

    def get_tool_description(self) -> dict[str, Any]:
        return self._description

    def execute(self, param: Mapping[str, Any]) -> Any:
        raise NotImplementedError


def read_texts(engine: litert_lm.Engine, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without a start token."""
    return [list(engine.tokenize(text)) for text in texts]


def render_dialogues(engine: litert_lm.Engine, dialogues: Sequence[Dialogue]) -> list[list[Turn]]:
    """Each turn of each dialogue by the template of the bundle that `engine` has loaded."""
    return [[_turn(engine, dialogue, number) for number in range(len(dialogue.questions))] for dialogue in dialogues]


def _turn(engine: litert_lm.Engine, dialogue: Dialogue, number: int) -> Turn:
    history = dialogue.history(number)
    whole = _rendered(engine, dialogue, history, dialogue.questions[number], {})
    if number == 0:
        return Turn("", whole)
    # What the template is given by the runtime gives way to what a caller gives it.
    given = {"messages": as_parts(history), "add_generation_prompt": False}
    return Turn(_rendered(engine, dialogue, (), dialogue.questions[number], given), whole)


def _rendered(
    engine: litert_lm.Engine, dialogue: Dialogue, history: Sequence[Any], question: str, given: Mapping[str, Any]
) -> str | None:
    try:
        with engine.create_conversation(
            messages=list(history),
            tools=[_Described(tool) for tool in dialogue.tools],
            extra_context={**dialogue.context, **given},
        ) as conversation:
            return conversation.render_message_to_string(question) or None
    except RuntimeError:
        return None
