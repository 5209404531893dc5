"""A chat template rewritten for the runtime's engine, so that it renders there what it renders here.

LiteRT-LM renders templates with minijinja and differs from transformers in five ways (read from
`runtime/conversation` of LiteRT-LM 0.18 and confirmed by rendering there): a message's content arrives as a
list of parts; `bos_token` and `eos_token` are empty; the start token is put before the first turn whatever
the template says; `{% generation %}` and most Python methods are unknown; and of a later turn only that is
fed by which it is longer than the rendering of all before it.
"""

import re
from typing import TYPE_CHECKING

from autoconvert.packaging.dialogues import GENERATION_TAG, Message, assistant, render, user, variables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTENT = "Zaphod"
# Marks that no template writes itself.
_MARKS = tuple(f"Zaphod{number}Beeblebrox" for number in range(5))
_CASE_METHOD = re.compile(r"\.(upper|lower|title|capitalize)\(\)")
_GET_METHOD = re.compile(r"\.get\(\s*('[^']*'|\"[^\"]*\")\s*(?:,\s*([^()]+?)\s*)?\)")
_TEXT_OF_PARTS = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is defined and message.content is not string and message.content is not mapping"
    " and message.content is iterable"
    " and message.content | rejectattr('type', 'equalto', 'text') | list | length == 0 -%}"
    "{%- set flat.messages = flat.messages"
    " + [dict(message, content=message.content | map(attribute='text') | join)] -%}"
    "{%- else -%}{%- set flat.messages = flat.messages + [message] -%}{%- endif -%}"
    "{%- endfor -%}{%- set messages = flat.messages %}"
)
_WITHOUT_TOOLS = "{%- if tools is defined and tools %}{{ raise_exception('this bundle takes no tools') }}{% endif %}"


def adapt(tokenizer: "PreTrainedTokenizerBase", source: str, start: str) -> tuple[str, tuple[str, ...]]:
    """`source` with what the runtime lacks written before it, and what was changed; as it is where it lacks nothing.

    `start` is the text of the token that the runtime writes before a chat. Raises what the template raises.
    """
    changes = []
    plain = _CASE_METHOD.sub(r" | \1", _GET_METHOD.sub(_item_lookup, GENERATION_TAG.sub("", source)))
    if plain != source:
        changes.append("generation tags and Python methods replaced")
    # Jinja drops a new line at the end of a template, the runtime keeps it.
    body = plain.removesuffix("\n")
    preamble = ""
    if not _takes_parts(tokenizer, body):
        preamble += _TEXT_OF_PARTS
        changes.append("parts of a message joined")
    read = variables(body)
    for name, token in tokenizer.special_tokens_map.items():
        if name in read and isinstance(token, str) and not (start and name == "bos_token"):
            preamble += f"{{%- set {name} = {_literal(token)} %}}"
            changes.append(f"{name} defined")
    first = [user(_CONTENT)]
    if start and render(tokenizer, body, first, context={"bos_token": ""}).startswith(start):
        body = f"{{%- set spoken %}}\n{body}{{% endset %}}{{{{ spoken[{len(start)}:] }}}}"
        changes.append("its literal start token removed")
    # Both engines drop a new line after a tag: this one leaves the body at the start of a line, as it was.
    return f"{preamble}\n{body}" if preamble else body, tuple(changes)


def resumed(adapted: str, seam: str) -> str:
    """`adapted`, but a chat that ends with an answer renders as it does before another question, up to the `seam`.

    So the rendering of a history is the beginning of that of each longer chat, whatever the template does to old
    answers, and what comes next begins right behind the token that ended the answer.
    """
    mark = _MARKS[0]
    return (
        "{%- set resumes = not add_generation_prompt and messages and (messages | last).role == 'assistant' %}"
        f"{{%- if resumes %}}{{% set messages = messages + [{{'role': 'user', 'content': '{mark}'}}] %}}{{% endif %}}"
        f"{{%- set seam = {_literal(seam + mark)} %}}"
        f"{{%- set chat %}}\n{adapted}{{% endset %}}"
        "{%- if resumes %}{{ chat.split(seam)[0] }}{% else %}{{ chat }}{% endif %}"
    )


def without_tools(adapted: str) -> str:
    """`adapted`, but it raises where tools are given, rather than render them in another way."""
    return f"{_WITHOUT_TOOLS}\n{adapted}"


def find_seam(tokenizer: "PreTrainedTokenizerBase", source: str, ends_answer: str) -> str | None:
    """What `source` writes between the end of an answer and the next question's text; None if it varies.

    `ends_answer` is the text of the token that the model ends an answer with, which the runtime has fed already.
    """
    turns = [user, assistant, user, assistant, user]
    messages: list[Message] = [turn(mark) for turn, mark in zip(turns, _MARKS, strict=True)]
    # A template is a foreign program: whatever it raises, it does not take such turns.
    try:
        text = render(tokenizer, source, messages)
    except Exception:
        return None
    seams = set()
    for answer, question in ((1, 2), (3, 4)):
        _, answered, rest = text.partition(_MARKS[answer])
        seam, asked, _ = rest.partition(_MARKS[question])
        if not (answered and asked):
            return None
        seams.add(seam)
    return seams.pop().removeprefix(ends_answer) if len(seams) == 1 else None


def _item_lookup(found: re.Match[str]) -> str:
    key, default = found.groups()
    return f"[{key}]" if default is None else f"[{key}] | default({default})"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _takes_parts(tokenizer: "PreTrainedTokenizerBase", source: str) -> bool:
    """Whether content given as a list of one text part renders as the text itself."""
    chat = [user(_CONTENT), assistant(_CONTENT), user(_CONTENT)]
    for turns in (chat[:1], chat, [{"role": "system", "content": _CONTENT}, *chat]):
        # A template is a foreign program: whatever it raises, it does not take such turns.
        try:
            wanted = render(tokenizer, source, turns)
        except Exception:
            continue
        try:
            if render(tokenizer, source, as_parts(turns)) != wanted:
                return False
        except Exception:
            return False
    return True


def as_parts(turns: list[Message]) -> list[Message]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
