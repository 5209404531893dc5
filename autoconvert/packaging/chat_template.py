"""The chat template of a tokenizer, adapted until the runtime's rendering equals the tokenizer's own.

LiteRT-LM renders templates with minijinja and differs from transformers in four ways (read from
`runtime/conversation` of LiteRT-LM 0.18 and confirmed by rendering there): a message's content arrives as a
list of parts; `bos_token` and `eos_token` are empty; the start token is put before the first turn whatever
the template says; `{% generation %}` is unknown.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "Zaphod"
GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
CASE_METHOD = re.compile(r"\.(upper|lower|title|capitalize)\(\)")
GET_METHOD = re.compile(r"\.get\(\s*('[^']*'|\"[^\"]*\")\s*(?:,\s*([^()]+?)\s*)?\)")
# The runtime rewrites these itself, by regular expressions, and `cycle` belongs to loops.
RUNTIME_METHODS = {
    *("startswith", "endswith", "replace", "split", "join", "lstrip", "rstrip", "strip", "items"),
    "cycle",
}
TEXT_OF_PARTS = (
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

Message = dict[str, Any]


@dataclass(frozen=True)
class Affixes:
    """What the template writes before and after the text of each role; `system` is None if it takes none."""

    user: tuple[str, str]
    model: tuple[str, str]
    system: tuple[str, str] | None


@dataclass(frozen=True)
class ChatTemplate:
    """How turns become text: as a template, as affixes, or either; the template is the one to use.

    Some failures of minijinja show only in the runtime: without `jinja` the same chat works by its affixes.
    `end_of_turn` is the special token after an assistant's text, None if the template writes none;
    `takes_thinking` says that the template reads `enable_thinking`.
    """

    jinja: str | None
    affixes: Affixes | None
    end_of_turn: int | None
    takes_thinking: bool


def read_chat_template(
    tokenizer: "PreTrainedTokenizerBase", start_token: int | None
) -> tuple[ChatTemplate | None, tuple[str, ...]]:
    """The tokenizer's chat template as the runtime can take it, and notes on what was changed and why.

    `start_token` is what the runtime will put before the first turn. None without a template, or when the
    template cannot render a plain user turn or cannot be expressed for the runtime: a note says which.
    """
    if not tokenizer.chat_template:
        return None, ()
    try:
        source = tokenizer.get_chat_template()
        render(tokenizer, source, [user(PLACEHOLDER)])
    except (TemplateError, ValueError) as error:
        return None, (f"chat template left out: it cannot render a user turn ({error})",)
    end_of_turn = end_of_turn_token(tokenizer, source)
    takes_thinking = "enable_thinking" in variables(source)
    affixes = derive_affixes(tokenizer, source, start_token)
    adapted, notes = adapt(tokenizer, source, start_token)
    if not unknown_calls(adapted) and runtime_renders_alike(tokenizer, source, adapted, start_token):
        return ChatTemplate(adapted, affixes, end_of_turn, takes_thinking), notes
    if affixes is None:
        return None, ("chat template left out: the runtime cannot render it as the tokenizer does",)
    notes = ("chat template reduced to the text before and after each turn: the runtime cannot render it",)
    return ChatTemplate(None, affixes, end_of_turn, False), notes


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def render(
    tokenizer: "PreTrainedTokenizerBase",
    source: str,
    messages: list[Message],
    *,
    generate: bool = False,
    tokens: Mapping[str, str] | None = None,
) -> str:
    """`messages` as transformers renders them; `tokens` replaces special tokens by name."""
    text = tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=generate, **(tokens or {})
    )
    return str(text)


def variables(source: str) -> set[str]:
    """Names that the template reads from its context."""
    return meta.find_undeclared_variables(environment().parse(GENERATION_TAG.sub("", source)))


def environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])


def adapt(tokenizer: "PreTrainedTokenizerBase", source: str, start_token: int | None) -> tuple[str, tuple[str, ...]]:
    """`source` with what the runtime lacks written before it; unchanged where it lacks nothing."""
    notes = []
    body = CASE_METHOD.sub(r" | \1", GET_METHOD.sub(item_lookup, GENERATION_TAG.sub("", source)))
    if body != source:
        notes.append("chat template: generation tags and Python methods replaced, which the runtime lacks")
    preamble = ""
    if not takes_parts(tokenizer, body):
        preamble += TEXT_OF_PARTS
        notes.append("chat template: joins text parts first, since the runtime passes content as a list")
    read = variables(body)
    for name, token in tokenizer.special_tokens_map.items():
        written_by_runtime = start_token is not None and name == "bos_token"
        if name in read and isinstance(token, str) and not written_by_runtime:
            quoted = token.replace("\\", "\\\\").replace("'", "\\'")
            preamble += f"{{%- set {name} = '{quoted}' %}}"
            notes.append(f"chat template: {name} defined in it, which the runtime leaves empty")
    start = "" if start_token is None else token_text(tokenizer, start_token)
    spelled = render(tokenizer, body, [user(PLACEHOLDER)], tokens={"bos_token": ""})
    if start and spelled.startswith(start):
        body = f"{{%- set spoken %}}\n{body}{{% endset %}}{{{{ spoken[{len(start)}:] }}}}"
        notes.append("chat template: its literal start token removed, which the runtime writes")
    elif start and not render(tokenizer, body, [user(PLACEHOLDER)]).startswith(start):
        notes.append(f"a chat starts with {start}, as the tokenizer starts a text; its template writes none")
    # Both engines drop a new line after a tag: this one leaves the body at the start of a line, as it was.
    return f"{preamble}\n{body}" if preamble else body, tuple(notes)


def item_lookup(found: re.Match[str]) -> str:
    key, default = found.groups()
    return f"[{key}]" if default is None else f"[{key}] | default({default})"


def unknown_calls(source: str) -> set[str]:
    """Calls in `source` that the runtime's minijinja cannot make: Python methods, options of `tojson`."""
    tree = environment().parse(source)
    methods = {call.node.attr for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Getattr)}
    dumps = {f.name for f in tree.find_all(nodes.Filter) if f.name == "tojson" and (f.args or f.kwargs)}
    return (methods - RUNTIME_METHODS) | dumps


def takes_parts(tokenizer: "PreTrainedTokenizerBase", source: str) -> bool:
    """Whether content given as a list of one text part renders as the text itself."""
    conversations = [[user(PLACEHOLDER)], [user(PLACEHOLDER), assistant(PLACEHOLDER), user(PLACEHOLDER)]]
    try:
        return all(
            render(tokenizer, source, as_parts(turns)) == render(tokenizer, source, turns) for turns in conversations
        )
    except (TemplateError, TypeError, AttributeError):
        return False


def as_parts(turns: list[Message]) -> list[Message]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def runtime_renders_alike(
    tokenizer: "PreTrainedTokenizerBase", source: str, adapted: str, start_token: int | None
) -> bool:
    """Whether `adapted`, given what the runtime gives it, renders what `source` renders."""
    start = "" if start_token is None else token_text(tokenizer, start_token)
    turns = [user(PLACEHOLDER), assistant(PLACEHOLDER), user(PLACEHOLDER)]
    absent = dict.fromkeys(tokenizer.special_tokens_map, "")
    try:
        for count in (1, 3):
            ours = render(tokenizer, adapted, as_parts(turns[:count]), generate=True, tokens=absent)
            if ours != render(tokenizer, source, turns[:count], generate=True).removeprefix(start):
                return False
    except (TemplateError, TypeError, AttributeError):
        return False
    return True


def token_text(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def end_of_turn_token(tokenizer: "PreTrainedTokenizerBase", source: str) -> int | None:
    """The special token that follows an assistant's text, but for white space; None if there is none."""
    try:
        rendered = render(tokenizer, source, [user(PLACEHOLDER), assistant(PLACEHOLDER * 2)])
    except TemplateError:
        return None
    _, found, tail = rendered.rpartition(PLACEHOLDER)
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    ids = tokenizer.encode(tail.lstrip(), add_special_tokens=False) if found else []
    return ids[0] if ids and ids[0] in special else None


def derive_affixes(tokenizer: "PreTrainedTokenizerBase", source: str, start_token: int | None) -> Affixes | None:
    """The text around each role's content, from renderings; None if turns are not prefix, text, suffix."""
    start = "" if start_token is None else token_text(tokenizer, start_token)

    def split(before: str, after: str) -> tuple[str, str] | None:
        parts = after.removeprefix(before).split(PLACEHOLDER)
        return (parts[0], parts[1]) if after.startswith(before) and len(parts) == 2 else None

    try:
        asked = render(tokenizer, source, [user(PLACEHOLDER)]).removeprefix(start)
        prompted = render(tokenizer, source, [user(PLACEHOLDER)], generate=True).removeprefix(start)
        answered = render(tokenizer, source, [user(PLACEHOLDER), assistant(PLACEHOLDER)]).removeprefix(start)
        asked_again = render(
            tokenizer, source, [user(PLACEHOLDER), assistant(PLACEHOLDER), user(PLACEHOLDER)]
        ).removeprefix(start)
    except TemplateError:
        return None
    first, model, second = split("", asked), split(asked, answered), split(answered, asked_again)
    if first is None or model is None or first != second or prompted != asked + model[0]:
        return None
    try:
        with_system = render(
            tokenizer, source, [{"role": "system", "content": PLACEHOLDER}, user(PLACEHOLDER)]
        ).removeprefix(start)
    except TemplateError:
        return Affixes(first, model, None)
    return Affixes(first, model, split("", with_system.removesuffix(asked)))
