import dataclasses
from pathlib import Path

import pytest

from autoconvert.packaging.affixes import Affixes, derive_affixes
from autoconvert.packaging.chat_template import ChatTemplate, read_chat_template
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.tokenizer import read_tokenizer
from autoconvert.runtime.engine import open_engine
from autoconvert.runtime.stub import render_in_stub
from tests.packaging.tiny_bundle import bundle, byte_level_tokenizer, tiny_folder

TURNS = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ CONTENT }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "string content": TURNS.replace("CONTENT", "message['content']"),
    "start token by name": "{{ bos_token }}" + TURNS.replace("CONTENT", "message['content']"),
    "start token spelled out": "<s>" + TURNS.replace("CONTENT", "message['content']"),
    "end token by name": TURNS.replace("CONTENT", "message.content + eos_token"),
    "parts or string": TURNS.replace(
        "{{ CONTENT }}",
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}",
    ),
    "generation tags": TURNS.replace(
        "{{ CONTENT }}",
        "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}",
    ),
    "string methods": TURNS.replace("CONTENT", "message['content'].strip()"),
    "dictionary methods": TURNS.replace("CONTENT", "message.get('name', 'no') + message.get('content')"),
    "case methods": TURNS.replace("CONTENT", "message.content.upper() + message.role.title()"),
    "slices": "{% for m in messages[::-1] %}{% if loop.first %}{{ m.role }}{% endif %}{% endfor %}"
    + TURNS.replace("CONTENT", "message.content.split('</think>')[-1].lstrip('\\n')"),
    "leading blanks": "  " + TURNS.replace("CONTENT", "message['content'] | trim"),
    "leading new line": "\n" + TURNS.replace("CONTENT", "message['content'] | trim"),
}
HISTORY = [
    {"role": "user", "content": "Where is the cat?"},
    {"role": "assistant", "content": "On the mat."},
]


def read(
    template: str, *, prepends_start: bool = False
) -> tuple[ChatTemplate | None, tuple[Dialogue, ...], tuple[str, ...]]:
    tokenizer = byte_level_tokenizer(prepends_start=prepends_start, chat_template=template)
    return read_chat_template(tokenizer, 0 if prepends_start else None, render_in_stub)


def chat(template: str, *, prepends_start: bool) -> ChatTemplate:
    found, _, _ = read(template, prepends_start=prepends_start)
    assert found is not None
    return found


@pytest.mark.parametrize("prepends_start", [True, False])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_runtime_renders_what_the_tokenizer_renders(tmp_path: Path, template: str, prepends_start: bool) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=prepends_start, chat_template=template)
    start = 0 if prepends_start else None
    spec = dataclasses.replace(
        read_tokenizer(tiny_folder()), start=start, chat=chat(template, prepends_start=prepends_start)
    )
    with open_engine(bundle(tmp_path / "model.litertlm", spec)) as engine:
        with engine.create_conversation() as first:
            opening = first.render_message_to_string("Hello")
        with engine.create_conversation(messages=HISTORY) as second:
            later = second.render_message_to_string("Hello")
    turn = {"role": "user", "content": "Hello"}
    wanted = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert opening == wanted.removeprefix("<s>" if prepends_start else "")
    dialogue = tokenizer.apply_chat_template([*HISTORY, turn], tokenize=False, add_generation_prompt=True)
    assert dialogue.endswith(later)


def test_a_template_that_needs_nothing_is_kept_verbatim() -> None:
    template = TEMPLATES["parts or string"].replace("<|end|>\n", "<|end|>")
    assert chat(template, prepends_start=False).jinja == template


def test_end_of_turn_is_none_where_no_special_token_ends_a_turn() -> None:
    template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    assert chat(template, prepends_start=False).end_of_turn is None


def test_thinking_is_supported_where_the_template_asks_for_it() -> None:
    asks = TEMPLATES["string content"] + "{% if enable_thinking %}<think>{% endif %}"
    assert chat(asks, prepends_start=False).takes_thinking
    assert not chat(TEMPLATES["string content"], prepends_start=False).takes_thinking


def test_a_template_that_fails_is_left_out_with_the_reason() -> None:
    found, _, notes = read("{{ raise_exception('tools needed') }}")
    assert found is None
    assert "tools needed" in notes[0]


@pytest.mark.parametrize("name", ["string content", "start token by name"])
def test_affixes_render_like_the_template_in_the_runtime(tmp_path: Path, name: str) -> None:
    tokenizer = byte_level_tokenizer(prepends_start=True, chat_template=TEMPLATES[name])
    affixes = derive_affixes(tokenizer, TEMPLATES[name], "<s>")
    assert affixes == Affixes(
        ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>\n"), ("<|system|>\n", "<|end|>\n")
    )
    spec = dataclasses.replace(read_tokenizer(tiny_folder()), chat=ChatTemplate(None, affixes, 6, False))
    with (
        open_engine(bundle(tmp_path / "model.litertlm", spec)) as engine,
        engine.create_conversation() as conversation,
    ):
        rendered = conversation.render_message_to_string("Hello")
    turn = {"role": "user", "content": "Hello"}
    wanted = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    assert rendered == wanted.removeprefix("<s>")


def test_a_template_beyond_the_runtime_becomes_affixes() -> None:
    template = TURNS.replace("CONTENT", "message['content'].removeprefix('never there')")
    found = chat(template, prepends_start=False)
    assert found.jinja is None
    assert found.affixes is not None


def test_turns_that_depend_on_their_number_have_no_affixes() -> None:
    template = "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}\n{% endfor %}"
    tokenizer = byte_level_tokenizer(prepends_start=False, chat_template=template)
    assert derive_affixes(tokenizer, template, "") is None
