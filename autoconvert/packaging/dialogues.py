"""Chats as apps hold them, with what the tokenizer's template makes of each turn: what the runtime must render.

They are data, so that they can be compared in another process, and after the tokenizer is gone.
"""

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]

GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_DATE = re.compile(r"""\bstrftime_now\(\s*("[^"]*"|'[^']*')\s*\)""")
# A closing tag that a template spells out: what a template does to an answer often depends on one.
_CLOSING_TAG = re.compile(r"</([A-Za-z_]\w*)>")
ODD, _TAGGED = "of odd texts", "whose answers have"
_QUESTIONS = ("Where is the nearest river?", "And the nearest hill?", "Thank you. How far is it?")
_ANSWERS = ("Behind the mill.", "Two miles to the north.")
_ODD_QUESTIONS = ("  two lines,\nthen {{ none }} \n", 'He said "no" & \\n isn\'t <b>one</b>.', " Grüße, 世界 🙂\n\n")
_ODD_ANSWERS = ("\n Yes: [1, 2], {'a': 3}\t", " 不 ")
_TOOL = {
    "type": "function",
    "function": {
        "name": "river_level",
        "description": "Tells how high a river is.",
        "parameters": {
            "type": "object",
            "properties": {"river": {"type": "string", "description": "Its name."}},
            "required": ["river"],
        },
    },
}


@dataclass(frozen=True)
class Dialogue:
    """A chat and its renderings.

    `opening` stands before the first question; `answers` are those before each further question. `renderings` has for
    each question what the template writes from the beginning of the chat to where the answer begins, without the start
    token that the runtime writes. `context` has further variables of the template. `telling` says that a form of the
    template which renders this one in another way is of no use.
    """

    name: str
    opening: tuple[Message, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    renderings: tuple[str, ...] = ()
    telling: bool = False

    def history(self, turn: int) -> list[Message]:
        """The messages before question `turn`, which counts from 0."""
        asked = zip(self.questions[:turn], self.answers[:turn], strict=True)
        return [*self.opening, *(message for q, a in asked for message in (user(q), assistant(a)))]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def dialogues(tokenizer: "PreTrainedTokenizerBase", source: str, start: str) -> tuple[Dialogue, ...]:
    """Chats that `source` renders, as far as it renders them; the plain one comes first.

    `start` is the text of the token that the runtime writes before a chat.
    """
    found: list[Dialogue] = []
    for dialogue in _unrendered(source):
        renderings = tuple(_renderings(tokenizer, source, dialogue, start))
        # A template may take a single question, or no system message: that is as far as the model goes.
        asked = len(renderings)
        if dialogue.name.startswith(_TAGGED) and _as_they_are(dialogue, renderings):
            continue
        if asked == len(dialogue.questions) or (asked and not found):
            questions, answers = dialogue.questions[:asked], dialogue.answers[: asked - 1]
            found.append(replace(dialogue, questions=questions, answers=answers, renderings=renderings))
        elif not found:
            break
    return tuple(found)


def _as_they_are(dialogue: Dialogue, renderings: Sequence[str]) -> bool:
    """Whether the last rendering has all answers as they are: their tags tell nothing more than plain ones."""
    return bool(renderings) and all(answer in renderings[-1] for answer in dialogue.answers)


def _unrendered(source: str) -> Iterator[Dialogue]:
    read = variables(source)
    yield Dialogue("of plain turns", (), _QUESTIONS, _ANSWERS, telling=True)
    system = ({"role": "system", "content": "Answer in few words."},)
    yield Dialogue("with a system message", system, _QUESTIONS, _ANSWERS, telling=True)
    yield Dialogue(ODD, (), _ODD_QUESTIONS, _ODD_ANSWERS)
    for tag in dict.fromkeys(_CLOSING_TAG.findall(source)):
        answers = tuple(f"<{tag}>\nLet me see.\n</{tag}>\n\n{answer}" for answer in _ANSWERS)
        yield Dialogue(f"{_TAGGED} {tag} tags", (), _QUESTIONS, answers)
    if "enable_thinking" in read:
        for value in (False, True):
            context = {"enable_thinking": value}
            yield Dialogue(f"that sets enable_thinking to {value}", (), _QUESTIONS, _ANSWERS, context=context)
    if "tools" in read:
        yield Dialogue("with tools", system, _QUESTIONS, _ANSWERS, tools=(_TOOL,))
        yield Dialogue("with tools and no system message", (), _QUESTIONS, _ANSWERS, tools=(_TOOL,))


def _renderings(tokenizer: "PreTrainedTokenizerBase", source: str, dialogue: Dialogue, start: str) -> Iterator[str]:
    for turn, question in enumerate(dialogue.questions):
        messages = [*dialogue.history(turn), user(question)]
        # A template is a foreign program: whatever it raises, it does not render this chat.
        try:
            text = render(
                tokenizer, source, messages, generate=True, tools=dialogue.tools, context=dict(dialogue.context)
            )
        except Exception:
            return
        yield text.removeprefix(start)


def render(
    tokenizer: "PreTrainedTokenizerBase",
    source: str,
    messages: Sequence[Message],
    *,
    generate: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
) -> str:
    """`messages` as transformers renders them; `context` replaces variables of the template by name."""
    text = tokenizer.apply_chat_template(
        list(messages),
        tools=[dict(tool) for tool in tools] or None,
        chat_template=_DATE.sub(_at_greenwich, source),
        tokenize=False,
        add_generation_prompt=generate,
        **(context or {}),
    )
    return str(text)


def _at_greenwich(found: re.Match[str]) -> str:
    """Where the runtime's day begins, unlike that of transformers."""
    return repr(datetime.datetime.now(datetime.UTC).strftime(found[1][1:-1]))


def variables(source: str) -> set[str]:
    """Names that the template reads from its context. Raises TemplateError if it is no template."""
    tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION_TAG.sub("", source))
    return meta.find_undeclared_variables(tree)
